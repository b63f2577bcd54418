package cpu

import (
	"runtime"
	"sync/atomic"
)

// job is work cut into numbered tasks. worker is below the pool's threads and
// never shared by two tasks that run at once; it names the task's scratch.
type job interface {
	task(worker, index int)
}

// pool runs jobs on the calling goroutine and on workers that wait for the
// next job: a decode step has hundreds of jobs of some microseconds, for which
// starting goroutines would cost too much. A worker spins for a while and then
// sleeps.
type pool struct {
	threads int
	workers []*worker

	// set before a job opens, constant until it is closed
	job   job
	tasks int64

	next atomic.Int64 // first task that nobody has taken
	// state is a job's number << 32, jobOpen while it has tasks, and the
	// number of workers inside it.
	state atomic.Uint64
}

const (
	jobOpen    = 1 << 31
	jobWorkers = jobOpen - 1
	jobNumber  = 1 << 32
)

type worker struct {
	parked atomic.Bool
	wake   chan struct{} // closed at the end
}

// spins is how often a worker looks for the next job before it sleeps; one
// look takes about 40 pauses, half a microsecond.
const spins = 200

func newPool(threads int) *pool {
	p := &pool{threads: threads}
	for i := 1; i < threads; i++ {
		w := &worker{wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		go p.work(i, w)
	}
	return p
}

// run does all tasks of j and returns when they are done.
func (p *pool) run(tasks int, j job) {
	if p.threads == 1 || tasks <= 1 {
		for i := range tasks {
			j.task(0, i)
		}
		return
	}
	p.job, p.tasks = j, int64(tasks)
	p.next.Store(0)
	state := (p.state.Load()/jobNumber + 1) * jobNumber
	p.state.Store(state | jobOpen)
	for i, w := range p.workers {
		if i+1 >= tasks {
			break
		}
		if w.parked.Load() && w.parked.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	p.take(0)
	// close the job: workers that have not come need not come
	for {
		s := p.state.Load()
		if p.state.CompareAndSwap(s, s&^jobOpen) {
			break
		}
	}
	for i := 0; p.state.Load()&jobWorkers != 0; i++ {
		pause(10)
		if i > spins {
			runtime.Gosched()
		}
	}
	p.job = nil
}

func (p *pool) take(worker int) {
	for {
		i := p.next.Add(1) - 1
		if i >= p.tasks {
			return
		}
		p.job.task(worker, int(i))
	}
}

func (p *pool) work(index int, w *worker) {
	last := uint64(0)
	for {
		for i := 0; ; i++ {
			s := p.state.Load()
			if s&jobOpen != 0 && s/jobNumber != last && p.state.CompareAndSwap(s, s+1) {
				last = s / jobNumber
				p.take(index)
				p.state.Add(^uint64(0))
				i = 0
				continue
			}
			if i < spins {
				pause(40)
				continue
			}
			w.parked.Store(true)
			s = p.state.Load()
			if s&jobOpen != 0 && s/jobNumber != last && w.parked.CompareAndSwap(true, false) {
				i = 0
				continue
			}
			break
		}
		if _, ok := <-w.wake; !ok {
			return
		}
	}
}

// close ends the workers; no job may be running.
func (p *pool) close() {
	for _, w := range p.workers {
		close(w.wake)
	}
}
