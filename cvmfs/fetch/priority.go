package fetch

import "context"

// prefetchKey marks the context of what nobody waits for yet, urgentKey that of
// what others cannot begin without.
type (
	prefetchKey struct{}
	urgentKey   struct{}
)

// Prefetch returns a context whose requests let those of other contexts go first,
// and never take the last quarter of the slots. A run of Once that such a context
// began goes on as if it were asked for as soon as a caller joins whose context is
// not marked.
func Prefetch(ctx context.Context) context.Context {
	return context.WithValue(ctx, prefetchKey{}, true)
}

// IsPrefetch reports whether ctx comes from Prefetch.
func IsPrefetch(ctx context.Context) bool { return ctx.Value(prefetchKey{}) != nil }

// Urgent returns a context whose requests need not wait behind those for data: a
// room beside that of all others is theirs alone, a quarter as large. It is for
// what shows which data are wanted, one small request after the other: manifests,
// catalogs. What is also prefetch waits as such, until somebody waits for it.
func Urgent(ctx context.Context) context.Context {
	return context.WithValue(ctx, urgentKey{}, true)
}

func isUrgent(ctx context.Context) bool { return ctx.Value(urgentKey{}) != nil }
