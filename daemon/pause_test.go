package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Server
		told := []bool{}
		first := s.gate.passing(func(b bool) { told = append(told, b) })
		second := s.gate.passing(func(bool) {})
		first(true)
		first(true)

		// One that does not end in time keeps nobody out.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Pause(ctx)
		var busy *BusyError
		if !errors.As(err, &busy) || busy.Operations != 1 {
			t.Fatalf("%v", err)
		}
		second(true)
		second(false)

		// One that ends is waited for, and what comes meanwhile waits.
		var resume func()
		go func() { resume, err = s.Pause(t.Context()) }()
		synctest.Wait()
		if resume != nil {
			t.Fatal("paused while an operation is under way")
		}
		if _, err := s.Pause(t.Context()); !errors.Is(err, ErrPaused) {
			t.Errorf("%v", err)
		}
		entered := false
		go func() { second(true); entered = true }()
		synctest.Wait()
		first(false)
		first(false)
		synctest.Wait()
		if err != nil || resume == nil || entered {
			t.Fatalf("%v, paused: %t, entered: %t", err, resume != nil, entered)
		}
		resume()
		resume()
		synctest.Wait()
		if !entered {
			t.Error("an operation still waits")
		}
		second(false)
		if resume, err := s.Pause(t.Context()); err != nil {
			t.Error(err)
		} else {
			resume()
		}
		if len(told) != 4 || !told[1] || told[2] {
			t.Errorf("%v", told)
		}
	})
}
