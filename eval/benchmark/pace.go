package benchmark

import "time"

// Progress is how far a run has come.
type Progress struct {
	Done, Total int // predictions
	Task        string
	// Remaining is an estimate, 0 as long as nothing was timed. It takes the
	// rates seen so far, and answers as long as the task's own so far.
	Remaining time.Duration
}

// pace estimates the time that is left: prompts, sparse ends of prompts and
// answers each have their own cost per token.
type pace struct {
	prompts, ends, answers rate
	length                 map[string]*rate // tokens of an answer by task: its units are answers
}

// rate is an amount of work and the time, or whatever it costs, that it took.
type rate struct{ units, cost float64 }

func (r *rate) add(units, cost float64) { r.units, r.cost = r.units+units, r.cost+cost }

// of is the cost of some units, otherwise while there is no experience.
func (r *rate) of(units, otherwise float64) float64 {
	if r == nil || r.units == 0 {
		return otherwise
	}
	return units * r.cost / r.units
}

func newPace() *pace { return &pace{length: map[string]*rate{}} }

func (p *pace) answered(task string, tokens int) {
	if p.length[task] == nil {
		p.length[task] = &rate{}
	}
	p.length[task].add(1, float64(tokens))
}

// left is the work of the jobs that are not done.
func (p *pace) left(groups []*group) time.Duration {
	if p.answers.units == 0 {
		return 0
	}
	seconds := 0.0
	for _, g := range groups {
		for _, j := range g.jobs {
			if !g.prefilled && len(j.missing) > 0 {
				seconds += p.prompts.of(float64(j.prefix), 0)
			}
			n := float64(len(j.missing))
			seconds += n * p.ends.of(float64(len(j.tokens)-j.prefix), 0)
			seconds += n * p.answers.of(p.length[j.q.Task].of(1, float64(j.q.MaxTokens)), 0)
		}
	}
	return time.Duration(seconds * float64(time.Second))
}
