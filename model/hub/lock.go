package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lock makes this the only process, and the only Pull within it, that works on
// key, waiting for its turn. The system drops the lock of a process that dies.
func (p *puller) lock(ctx context.Context, key, what string) (release func(), err error) {
	path := filepath.Join(p.cache, "locks", key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	for {
		taken, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if taken {
			return func() { f.Close() }, nil // closing drops the lock; the empty file stays, removing it would race
		}
		p.progress(0, 0, "wait for another process that gets "+what)
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
