package assemble

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"

	"prestage/internal/repo"
)

// inSpans divides items, which are in ascending order of where they lie in data of
// such traits, into spans that are worth reading as one range each, and has as many
// workers take them as that is best read by. The first error of a worker ends the
// others.
func inSpans[T any](ctx context.Context, traits repo.Traits, items []T, place func(T) (offset, length int64), worker func(ctx context.Context, spans <-chan []T) error) error {
	spans := make(chan []T)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(spans)
		for len(items) > 0 {
			n := span(items, place, traits)
			select {
			case spans <- items[:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
			items = items[n:]
		}
		return nil
	})
	readers := traits.Readers
	if readers == 0 {
		readers = runtime.GOMAXPROCS(0)
	}
	for range readers {
		g.Go(func() error { return worker(ctx, spans) })
	}
	return g.Wait()
}

// span returns how many of the items are read as one range.
func span[T any](items []T, place func(T) (offset, length int64), traits repo.Traits) int {
	first, length := place(items[0])
	end := first + length
	for n := 1; n < len(items); n++ {
		offset, length := place(items[n])
		if offset-end > traits.MaxGap || offset+length-first > traits.MaxSpan {
			return n
		}
		end = offset + length
	}
	return len(items)
}
