package store

import (
	"context"
	"time"
)

// AnswerAge is how old an answer may be that a store remembers of somewhere else,
// where whoever asks wants it younger than the store's own settings do; nil: as
// those say. Zero asks anew.
type AnswerAge struct {
	Positive *time.Duration // what is known of a path
	Negative *time.Duration // that a path is not there
}

// Shortest is the shorter one of what is wanted and what a store's settings say.
func (a AnswerAge) Shortest(positive, negative time.Duration) (p, n time.Duration) {
	if a.Positive != nil {
		positive = min(positive, *a.Positive)
	}
	if a.Negative != nil {
		negative = min(negative, *a.Negative)
	}
	return positive, negative
}

type answerAgeKey struct{}

// WithAnswerAge gives a context in which answers are to be no older.
func WithAnswerAge(ctx context.Context, a AnswerAge) context.Context {
	if a == AnswerAgeOf(ctx) {
		return ctx
	}
	return context.WithValue(ctx, answerAgeKey{}, a)
}

// AnswerAgeOf is what the context says.
func AnswerAgeOf(ctx context.Context) AnswerAge {
	a, _ := ctx.Value(answerAgeKey{}).(AnswerAge)
	return a
}
