// Package filelock keeps other processes, and other goroutines of this one,
// out of what a file stands for: a folder of results, a download. The system
// drops the lock of a process that dies. The file holds the process id of the
// holder and stays when the lock is released, for removing it would race.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// HeldError says that another holds a lock.
type HeldError struct {
	Path string
	PID  int // of the holder, 0 if it cannot be told
}

func (e *HeldError) Error() string { return fmt.Sprintf("%s is locked by %s", e.Path, e.Holder()) }

// Holder names the process for messages.
func (e *HeldError) Holder() string {
	switch e.PID {
	case 0:
		return "another process"
	case os.Getpid():
		return "this process"
	}
	return fmt.Sprintf("process %d", e.PID)
}

// Lock is a lock that is held.
type Lock struct{ f *os.File }

// Release drops the lock.
func (l *Lock) Release() { l.f.Close() }

// Try takes the lock at path, whose folder is made. If another has it, the
// error is a *HeldError.
func Try(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	taken, err := tryLock(f)
	switch {
	case err != nil:
		err = fmt.Errorf("lock %s: %w", path, err)
	case !taken:
		err = &HeldError{path, holder(f)}
	default:
		// The id is for messages of others; the lock holds without it, on a
		// full disk too.
		if f.Truncate(0) == nil {
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		return &Lock{f}, nil
	}
	f.Close()
	return nil, err
}

// Wait takes the lock at path as soon as it is free, asking every 100 ms.
// waiting (may be nil) hears of every time that it was not.
func Wait(ctx context.Context, path string, waiting func(*HeldError)) (*Lock, error) {
	for {
		l, err := Try(path)
		var held *HeldError
		if !errors.As(err, &held) {
			return l, err
		}
		if waiting != nil {
			waiting(held)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// holder reads the process id, 0 if there is none.
func holder(f *os.File) int {
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}
