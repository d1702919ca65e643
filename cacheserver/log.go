package cacheserver

import (
	"io"
	"net/http"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// log answers with a build log.
func (s *Server) log(w *answerWriter, r *http.Request, drv storepath.Path) error {
	q, err := store.Need[store.LogQuerier](s.o.Store, "getBuildLog")
	if err != nil {
		return err
	}
	log, err := q.BuildLog(r.Context(), drv)
	if err != nil {
		return err
	}
	defer log.Close()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff") // builds print what they like
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err = io.Copy(w, log)
	return err
}
