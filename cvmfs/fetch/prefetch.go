package fetch

import "context"

// prefetchKey marks the context of what nobody waits for yet.
type prefetchKey struct{}

// Prefetch returns a context whose requests let those of other contexts go first,
// and never take the last quarter of the slots. A run of Once that such a context
// began goes on as if it were asked for as soon as a caller joins whose context is
// not marked.
func Prefetch(ctx context.Context) context.Context {
	return context.WithValue(ctx, prefetchKey{}, true)
}

// IsPrefetch reports whether ctx comes from Prefetch.
func IsPrefetch(ctx context.Context) bool { return ctx.Value(prefetchKey{}) != nil }
