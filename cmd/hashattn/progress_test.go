package main

import (
	"strings"
	"testing"
	"time"
)

func TestPlainProgress(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, false)
	work := p.task("capture", false)
	work.update(100, 400) // what an earlier run had done
	work.begin, work.last = work.begin.Add(-20*time.Second), work.last.Add(-20*time.Second)
	work.update(200, 400)
	work.update(201, 400) // too soon
	work.end()
	if got, want := out.String(), "capture: 200 of 400 (50%), 40s left\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	out.Reset()
	quiet := newProgress(&out, true)
	quiet.logf("x")
	work = quiet.task("y", true)
	work.update(1, 2)
	work.end()
	if out.Len() > 0 {
		t.Errorf("--quiet printed %q", out.String())
	}
}
