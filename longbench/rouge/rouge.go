// Package rouge computes ROUGE-L as the Python package rouge 1.0.1 does, with its
// quirks, because LongBench's published summary scores depend on them:
//
//   - Sentences end at every ".", abbreviations and numbers included; text
//     without one (all Chinese text) is one sentence.
//   - Words are counted as a set: a word used twice counts once, and a blank
//     sentence counts as the empty word.
//   - The longest common subsequence is traced back by a recursive function, one
//     Python frame a step, so long sentences end in a RecursionError, which
//     LongBench scores 0.
package rouge

import (
	"errors"
	"strings"

	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

var (
	// ErrEmpty reports a text without any sentence (ValueError upstream).
	ErrEmpty = errors.New("rouge: empty text")
	// ErrRecursion reports a sentence pair whose trace-back is deeper than
	// Python's stack (RecursionError upstream).
	ErrRecursion = errors.New("rouge: sentences too long for the recursion limit of the Python package")
)

// L returns the F score of summary-level ROUGE-L, in [0, 1].
//
// frames is how many nested calls of the trace-back Python's stack has room for:
// the recursion limit less the frames of the caller's own call chain. 0 means no
// limit.
func L(hypothesis, reference string, frames int) (float64, error) {
	var words vocabulary
	hyp, ref := words.sentences(hypothesis), words.sentences(reference)
	if len(hyp) == 0 || len(ref) == 0 {
		return 0, ErrEmpty
	}
	// Words found in any longest common subsequence so far, over all pairs.
	union := make([]bool, len(words))
	common := 0
	for _, r := range ref {
		for _, h := range hyp {
			lcs, err := commonSubsequence(r, h, frames)
			if err != nil {
				return 0, err
			}
			for _, w := range lcs {
				if !union[w] {
					union[w] = true
					common++
				}
			}
		}
	}
	recall := float64(common) / float64(distinct(ref, len(words)))
	precision := float64(common) / float64(distinct(hyp, len(words)))
	return 2.0 * ((precision * recall) / (precision + recall + 1e-8)), nil
}

// vocabulary numbers words, so that they compare quickly.
type vocabulary map[string]int32

// sentences splits text at "." and each sentence at white space. A sentence of
// white space alone is one empty word: "".split(" ") is [""] in Python.
func (v *vocabulary) sentences(text string) [][]int32 {
	if *v == nil {
		*v = vocabulary{}
	}
	var out [][]int32
	for s := range strings.SplitSeq(text, ".") {
		if s == "" {
			continue
		}
		fields := pystr.Fields(s)
		if len(fields) == 0 {
			fields = []string{""}
		}
		sentence := make([]int32, len(fields))
		for i, f := range fields {
			id, ok := (*v)[f]
			if !ok {
				id = int32(len(*v))
				(*v)[f] = id
			}
			sentence[i] = id
		}
		out = append(out, sentence)
	}
	return out
}

func distinct(sentences [][]int32, words int) int {
	seen := make([]bool, words)
	n := 0
	for _, s := range sentences {
		for _, w := range s {
			if !seen[w] {
				seen[w] = true
				n++
			}
		}
	}
	return n
}

// Steps of the trace-back.
const (
	match = iota // both sequences give a word
	skipX        // x's last word is not in the subsequence
	skipY
)

// commonSubsequence returns the words of the longest common subsequence of x and
// y that upstream's trace-back finds, last word first: it starts at the ends and,
// between equally long ones, drops y's word.
func commonSubsequence(x, y []int32, frames int) ([]int32, error) {
	// The trace-back takes at most one step a frame, so it never leaves the last
	// frames rows and columns of the table: only their steps are kept.
	keepX, keepY := len(x), len(y)
	if frames > 0 {
		if min(len(x), len(y)) >= frames {
			return nil, ErrRecursion // even a path of matches alone is too deep
		}
		keepX, keepY = min(keepX, frames), min(keepY, frames)
	}
	step := make([]uint8, keepX*keepY)
	length := make([]int32, len(y)+1) // row i of the table of lengths
	for i, wx := range x {
		var row []uint8
		if k := i - (len(x) - keepX); k >= 0 {
			row = step[k*keepY : (k+1)*keepY]
		}
		diagonal := int32(0) // length[j] of the row before
		for j, wy := range y {
			above := length[j+1]
			var s uint8
			switch {
			case wx == wy:
				length[j+1], s = diagonal+1, match
			case above > length[j]:
				s = skipX
			default:
				length[j+1], s = length[j], skipY
			}
			if k := j - (len(y) - keepY); k >= 0 && row != nil {
				row[k] = s
			}
			diagonal = above
		}
	}

	var lcs []int32
	i, j := keepX, keepY
	for frame := 1; ; frame++ {
		if frames > 0 && frame > frames {
			return nil, ErrRecursion
		}
		// Where the kept part is smaller than the table, its edge is a frame too
		// many away, so this is the table's edge.
		if i == 0 || j == 0 {
			return lcs, nil
		}
		switch step[(i-1)*keepY+j-1] {
		case match:
			lcs = append(lcs, x[len(x)-keepX+i-1])
			i--
			j--
		case skipX:
			i--
		default:
			j--
		}
	}
}
