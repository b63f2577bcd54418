//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stubborn is a program whose work at hand never ends.
func stubborn() {
	ctx := interruptible()
	fmt.Fprintln(os.Stderr, "working")
	<-ctx.Done()
	select {}
}

// The first interrupt waits for the work at hand; the second does not.
func TestSecondInterrupt(t *testing.T) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), stubbornEnv+"=1")
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() }).Stop()
	lines := bufio.NewScanner(pipe)
	for _, want := range []string{"working", "interrupt again to stop at once"} {
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Fatalf("it says %q, want %q", lines.Text(), want)
		}
		if err := c.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Errorf("it ends with %v, want exit code %d", err, exitInterrupted)
	}
}
