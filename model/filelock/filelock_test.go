package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary a process that holds a lock until it dies.
func TestMain(m *testing.M) {
	if path := os.Getenv("FILELOCK_HOLD"); path != "" {
		if _, err := Try(path); err != nil {
			os.Exit(1)
		}
		fmt.Println("held")
		time.Sleep(time.Minute)
		return
	}
	os.Exit(m.Run())
}

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	a, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := Try(path); !errors.As(err, &held) || held.PID != os.Getpid() || !strings.Contains(err.Error(), path) {
		t.Fatalf("a second lock gives %v", err)
	}
	a.Release()
	b, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
}

// The lock of a process that is killed is free.
func TestOtherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "FILELOCK_HOLD="+path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := Try(path); !errors.As(err, &held) || held.PID != c.Process.Pid {
		t.Errorf("while process %d holds it: %v", c.Process.Pid, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	waits := 0
	if _, err := Wait(ctx, path, func(*HeldError) { waits++ }); !errors.Is(err, context.DeadlineExceeded) || waits != 1 {
		t.Errorf("a wait gives %v after %d times", err, waits)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	l, err := Wait(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestFailure(t *testing.T) {
	if _, err := Try(t.TempDir()); err == nil {
		t.Error("a folder was locked")
	}
}
