package ruler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
)

// QASet is a set of questions over documents, as qa_1 and qa_2 ask.
type QASet struct {
	documents []string // sorted
	questions []question
}

// question refers to documents by their place in QASet.documents.
type question struct {
	text    string
	answers []string
	needed  []int // documents that hold the answer
	near    []int // others of the same article: the first distractors
}

// maxQAFile bounds the data sets: HotpotQA's file has 46 MB.
const maxQAFile = 1 << 30

func loadJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxQAFile+1))
	if err == nil && len(data) > maxQAFile {
		err = errors.New("too large")
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// LoadSQuAD reads a SQuAD 2.0 file (dev-v2.0.json); unanswerable questions are
// left out.
func LoadSQuAD(path string) (*QASet, error) {
	var file struct {
		Data []struct {
			Paragraphs []struct {
				Context string `json:"context"`
				QAs     []struct {
					Question   string                  `json:"question"`
					Impossible bool                    `json:"is_impossible"`
					Answers    []struct{ Text string } `json:"answers"`
				} `json:"qas"`
			} `json:"paragraphs"`
		} `json:"data"`
	}
	if err := loadJSON(path, &file); err != nil {
		return nil, err
	}
	var documents []string
	for _, article := range file.Data {
		for _, p := range article.Paragraphs {
			documents = append(documents, p.Context)
		}
	}
	set := newQASet(documents)
	for _, article := range file.Data {
		var all []int
		for _, p := range article.Paragraphs {
			all = append(all, set.find(p.Context))
		}
		for i, p := range article.Paragraphs {
			near := slices.DeleteFunc(slices.Clone(all), func(d int) bool { return d == all[i] })
			for _, qa := range p.QAs {
				if qa.Impossible {
					continue
				}
				q := question{text: qa.Question, needed: all[i : i+1], near: near}
				for _, a := range qa.Answers {
					q.answers = append(q.answers, a.Text)
				}
				set.questions = append(set.questions, q)
			}
		}
	}
	return set, set.check(path)
}

// LoadHotpotQA reads a HotpotQA file of the distractor setting
// (hotpot_dev_distractor_v1.json).
func LoadHotpotQA(path string) (*QASet, error) {
	type record struct {
		Question string              `json:"question"`
		Answer   string              `json:"answer"`
		Context  [][]json.RawMessage `json:"context"` // title, sentences
	}
	var file []record
	if err := loadJSON(path, &file); err != nil {
		return nil, err
	}
	texts := make([][]string, len(file))
	var documents []string
	for i, r := range file {
		for k, c := range r.Context {
			var title string
			var sentences []string
			err := errors.New("not a title and sentences")
			if len(c) == 2 {
				err = errors.Join(json.Unmarshal(c[0], &title), json.Unmarshal(c[1], &sentences))
			}
			if err != nil {
				return nil, fmt.Errorf("%s: record %d, context %d: %w", path, i, k, err)
			}
			texts[i] = append(texts[i], title+"\n"+strings.Join(sentences, ""))
		}
		documents = append(documents, texts[i]...)
	}
	set := newQASet(documents)
	for i, r := range file {
		q := question{text: r.Question, answers: []string{r.Answer}}
		for _, text := range texts[i] {
			q.needed = append(q.needed, set.find(text))
		}
		set.questions = append(set.questions, q)
	}
	return set, set.check(path)
}

func newQASet(documents []string) *QASet {
	slices.Sort(documents)
	return &QASet{documents: slices.Compact(documents)}
}

func (s *QASet) find(document string) int {
	i, _ := slices.BinarySearch(s.documents, document)
	return i
}

func (s *QASet) check(path string) error {
	if len(s.questions) == 0 {
		return fmt.Errorf("%s: no questions", path)
	}
	for _, q := range s.questions {
		if q.text == "" || len(q.answers) == 0 || len(q.needed) == 0 {
			return fmt.Errorf("%s: question %q has no text, answer or document", path, q.text)
		}
	}
	return nil
}

// Questions is how many samples can be made.
func (s *QASet) Questions() int { return len(s.questions) }

type qa struct{ *QASet }

func newQA(c Config) (generator, error) {
	if c.Samples > len(c.QA.questions) {
		return nil, fmt.Errorf("ruler: %d samples of a QA data set of %d questions", c.Samples, len(c.QA.questions))
	}
	return qa{c.QA}, nil
}

func (g qa) smallest() int { return 1 }

// sample has size documents: those needed, then those near them, then others; and
// all of them, from the first again, where there are too few.
func (g qa) sample(rng *rand.Rand, index, size int) (Sample, error) {
	q := g.questions[index]
	var chosen []int
	switch more := size - len(q.needed); {
	case size >= len(g.documents):
		for i := range size {
			chosen = append(chosen, i%len(g.documents))
		}
	case more > len(q.near):
		used := map[int]bool{}
		for _, d := range slices.Concat(q.needed, q.near) {
			used[d] = true
			chosen = append(chosen, d)
		}
		for _, d := range rng.Perm(len(g.documents)) {
			if len(chosen) == size {
				break
			}
			if !used[d] {
				chosen = append(chosen, d)
			}
		}
	default:
		near, err := pick(rng, q.near, max(more, 0))
		if err != nil {
			return Sample{}, err
		}
		chosen = slices.Concat(q.needed, near)
	}
	rng.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })

	const task = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
	var b strings.Builder
	b.WriteString(task + "\n\nThe following are given documents.\n\n")
	for i, d := range chosen {
		fmt.Fprintf(&b, "Document %d:\n%s\n\n", i+1, g.documents[d])
	}
	b.WriteString(task + "\n\nQuestion: " + q.text)
	return Sample{Input: b.String(), AnswerPrefix: " Answer:", Outputs: q.answers}, nil
}
