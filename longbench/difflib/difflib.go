// Package difflib measures how alike two strings are: Ratio is
// difflib.SequenceMatcher(None, a, b).ratio() of Python, which LongBench's code
// similarity comes down to where python-Levenshtein is not installed, and
// IndelRatio is what it uses where it is.
package difflib

// Ratio returns twice the characters in matching blocks over the characters of
// both strings, in [0, 1]; two empty strings give 1. It is not symmetric: in b,
// characters that make up more than 1% of 200 or more are "popular" and start no
// match (autojunk).
func Ratio(a, b string) float64 {
	m := newMatcher([]rune(a), []rune(b))
	total := len(m.a) + len(m.b)
	if total == 0 {
		return 1
	}
	return 2.0 * float64(m.matches()) / float64(total)
}

type matcher struct {
	a, b []rune
	at   map[rune][]int // positions in b of each character that is not popular
	// run[j+1] is the length of the match that ends at b[j] and the last
	// character of a looked at; set[] lists the entries that are not 0.
	run, next       []int
	runSet, nextSet []int
}

func newMatcher(a, b []rune) *matcher {
	m := &matcher{a: a, b: b, at: map[rune][]int{}, run: make([]int, len(b)+1), next: make([]int, len(b)+1)}
	for j, c := range b {
		m.at[c] = append(m.at[c], j)
	}
	if n := len(b); n >= 200 {
		for c, at := range m.at {
			if len(at) > n/100+1 {
				delete(m.at, c)
			}
		}
	}
	return m
}

// matches is the total size of the matching blocks: the longest one, then the
// same to its left and to its right.
func (m *matcher) matches() int {
	type rectangle struct{ alo, ahi, blo, bhi int }
	total := 0
	todo := []rectangle{{0, len(m.a), 0, len(m.b)}}
	for len(todo) > 0 {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		i, j, size := m.longest(r.alo, r.ahi, r.blo, r.bhi)
		if size == 0 {
			continue
		}
		total += size
		if r.alo < i && r.blo < j {
			todo = append(todo, rectangle{r.alo, i, r.blo, j})
		}
		if i+size < r.ahi && j+size < r.bhi {
			todo = append(todo, rectangle{i + size, r.ahi, j + size, r.bhi})
		}
	}
	return total
}

// longest finds the longest block a[i:i+size] == b[j:j+size] inside the given
// bounds, the first in a and then in b among equals; it is found without the
// popular characters of b and then grows over them.
func (m *matcher) longest(alo, ahi, blo, bhi int) (i, j, size int) {
	i, j = alo, blo
	for x := alo; x < ahi; x++ {
		for _, y := range m.at[m.a[x]] {
			if y < blo {
				continue
			}
			if y >= bhi {
				break
			}
			k := m.run[y] + 1
			m.next[y+1] = k
			m.nextSet = append(m.nextSet, y+1)
			if k > size {
				i, j, size = x-k+1, y-k+1, k
			}
		}
		m.clearRun()
		m.run, m.next = m.next, m.run
		m.runSet, m.nextSet = m.nextSet, m.runSet
	}
	m.clearRun()
	for i > alo && j > blo && m.a[i-1] == m.b[j-1] {
		i, j, size = i-1, j-1, size+1
	}
	for i+size < ahi && j+size < bhi && m.a[i+size] == m.b[j+size] {
		size++
	}
	return i, j, size
}

func (m *matcher) clearRun() {
	for _, k := range m.runSet {
		m.run[k] = 0
	}
	m.runSet = m.runSet[:0]
}

// IndelRatio returns 1 less the insertions and deletions that turn a into b over
// the characters of both, as Levenshtein.ratio does; two empty strings give 1.
func IndelRatio(a, b string) float64 {
	x, y := []rune(a), []rune(b)
	total := len(x) + len(y)
	if total == 0 {
		return 1
	}
	common := make([]int, len(y)+1) // longest common subsequence of x so far and y[:j]
	for _, cx := range x {
		diagonal := 0
		for j, cy := range y {
			above := common[j+1]
			if cx == cy {
				common[j+1] = diagonal + 1
			} else {
				common[j+1] = max(above, common[j])
			}
			diagonal = above
		}
	}
	distance := total - 2*common[len(y)]
	return 1 - float64(distance)/float64(total)
}
