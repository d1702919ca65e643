package nixdb

import "context"

// lane is a lock with as many places as the channel has room, whose waiting can
// be canceled.
type lane chan struct{}

func (l lane) enter(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enterAnyway is for cleaning up, which must happen.
func (l lane) enterAnyway() { l <- struct{}{} }

func (l lane) leave() { <-l }
