package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// logEvery is the time between lines of one task where there is no terminal.
const logEvery = 10 * time.Second

// progress tells people how the work goes on: a bar on a terminal, else a plain
// line now and then.
type progress struct {
	w        io.Writer
	terminal bool
	quiet    bool
}

func newProgress(w io.Writer, quiet bool) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), quiet: quiet}
}

// logf prints one line.
func (p *progress) logf(format string, args ...any) {
	if !p.quiet {
		fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// task is one piece of work of a known size. Its methods may be called from
// several goroutines; a nil task says nothing.
type task struct {
	p     *progress
	label string
	bytes bool
	bar   *progressbar.ProgressBar

	mu          sync.Mutex
	begin, last time.Time
	first       int64 // where it began: what an earlier run had done
	seen        bool
	knows       bool          // the work estimates its end itself:
	left        time.Duration // so
}

// task starts a piece of work; bytes says that its size is one of data.
func (p *progress) task(label string, bytes bool) *task {
	return &task{p: p, label: label, bytes: bytes, begin: time.Now()}
}

// update says how much is done.
func (t *task) update(done, total int) { t.update64(int64(done), int64(total)) }

// updateLeft is update for work that knows better than by its share how long
// it will still take; 0 if it does not know yet.
func (t *task) updateLeft(done, total int, left time.Duration) {
	if t != nil {
		t.mu.Lock()
		t.knows, t.left = true, left
		t.mu.Unlock()
	}
	t.update64(int64(done), int64(total))
}

func (t *task) update64(done, total int64) {
	if t == nil || t.p.quiet || total <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.seen {
		t.seen, t.first, t.begin, t.last = true, done, now, now
	}
	if t.p.terminal {
		if t.bar == nil {
			t.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(t.p.w), progressbar.OptionSetDescription(t.label),
				progressbar.OptionShowBytes(t.bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(!t.knows), progressbar.OptionFullWidth())
		}
		if t.left > 0 {
			t.bar.Describe(t.label + ", " + elapsed(t.left) + " left")
		}
		// The bar is for looking at; that it cannot be drawn stops nothing.
		_ = t.bar.Set64(done)
		return
	}
	if now.Sub(t.last) < logEvery {
		return
	}
	t.last = now
	left := ""
	if gained := done - t.first; t.left > 0 {
		left = ", " + elapsed(t.left) + " left"
	} else if gained > 0 && !t.knows {
		left = ", " + elapsed(time.Duration(float64(now.Sub(t.begin))*float64(total-done)/float64(gained))) + " left"
	}
	fmt.Fprintf(t.p.w, "%s: %s of %s (%d%%)%s\n", t.label, t.amount(done), t.amount(total), 100*done/total, left)
}

func (t *task) amount(n int64) string {
	if t.bytes {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprint(n)
}

// end clears the bar.
func (t *task) end() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bar != nil {
		_ = t.bar.Clear()
	}
}

// elapsed prints a duration as people say it: 4.2s, 3m10s.
func elapsed(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
