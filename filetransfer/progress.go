package filetransfer

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
)

// progressEvery is how often at most an activity tells how far it is.
const progressEvery = 100 * time.Millisecond

// A progress tells how much was transferred. A nil one tells nobody.
type progress struct {
	act *activity.Activity

	mu             sync.Mutex
	done, expected uint64 // bytes; 0 is unknown
	told           time.Time
	stopped        bool
}

var gerund = map[string]string{
	http.MethodGet: "downloading", http.MethodHead: "downloading",
	http.MethodPut: "uploading", http.MethodPost: "uploading", http.MethodDelete: "deleting",
}

func startProgress(ctx context.Context, method, url string) (context.Context, *progress) {
	ctx, act := activity.Start(ctx, activity.Talkative, activity.FileTransfer, gerund[method]+" '"+url+"'", activity.Text(url))
	return ctx, &progress{act: act}
}

// set says where it is. A negative size is unknown.
func (p *progress) set(done, expected int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.expected = uint64(done), uint64(max(0, expected))
	p.tell()
}

// add counts bytes.
func (p *progress) add(n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += uint64(n)
	if time.Since(p.told) >= progressEvery {
		p.tell()
	}
}

func (p *progress) tell() {
	if p.stopped {
		return
	}
	p.told = time.Now()
	p.act.Progress(p.done, p.expected, 0, 0)
}

func (p *progress) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.tell()
		p.stopped = true
		p.act.Stop()
	}
}
