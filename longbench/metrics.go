package longbench

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/longbench/difflib"
	"github.com/hashattn/hashattn/longbench/internal/pystr"
	"github.com/hashattn/hashattn/longbench/jieba"
	"github.com/hashattn/hashattn/longbench/rouge"
)

// Metric names how a prediction is compared with one reference answer
// (LongBench/metrics.py upstream). Every metric gives a score in [0, 1].
type Metric string

// The metrics of LongBench.
const (
	QAF1             Metric = "qa_f1"          // F1 of normalised words
	QAF1Chinese      Metric = "qa_f1_zh"       // F1 of jieba's words
	RougeL           Metric = "rouge"          // F of ROUGE-L
	RougeLChinese    Metric = "rouge_zh"       // F of ROUGE-L over jieba's words
	Classification   Metric = "classification" // share of the right class among the classes named
	Retrieval        Metric = "retrieval"      // share of the right paragraph among the numbers named
	RetrievalChinese Metric = "retrieval_zh"
	Count            Metric = "count"    // share of the right number among the numbers named
	CodeSimilarity   Metric = "code_sim" // edit similarity of the first line of code
)

// Similarity chooses what CodeSimilarity measures with. Published scores differ
// by about two points between them; both are "the official scorer", which takes
// whichever library is installed.
type Similarity string

// The similarities of code.
const (
	Difflib     Similarity = "difflib"     // Python's standard library; the default
	Levenshtein Similarity = "levenshtein" // with python-Levenshtein installed: indel ratio
)

// The trace-back of the Python package rouge is recursive, and the official
// scorer takes its RecursionError for a score of 0. These are the frames that
// remain of Python's 1000 under its call chain: module, scorer, (rouge_zh_score,)
// rouge_score, get_scores, _get_avg_scores, lambda, rouge_l_summary_level,
// _union_lcs, _recon_lcs.
const (
	rougeFrames        = 1000 - 9
	rougeFramesChinese = 1000 - 10
)

// reference is what one prediction is scored against.
type reference struct {
	answer     string
	classes    []string   // of the task, for Classification
	similarity Similarity // for CodeSimilarity
}

// errScoredZero wraps the reason for which upstream swallows an exception and
// scores 0: the score stands, and the reason is reported beside it.
var errScoredZero = errors.New("scored 0 as upstream does")

var metrics = map[Metric]func(prediction string, ref reference) (float64, error){
	QAF1:             qaF1,
	QAF1Chinese:      qaF1Chinese,
	RougeL:           func(p string, r reference) (float64, error) { return rougeL(p, r.answer, rougeFrames) },
	RougeLChinese:    rougeLChinese,
	Classification:   classification,
	Retrieval:        func(p string, r reference) (float64, error) { return retrieval(p, r.answer, "Paragraph ") },
	RetrievalChinese: func(p string, r reference) (float64, error) { return retrieval(p, r.answer, "段落") },
	Count:            func(p string, r reference) (float64, error) { return shareOf(r.answer, p), nil },
	CodeSimilarity:   codeSimilarity,
}

func qaF1(prediction string, ref reference) (float64, error) {
	return f1(normalize(prediction), normalize(ref.answer)), nil
}

// normalize lowers text, removes ASCII punctuation, then the articles, and
// splits at white space.
func normalize(text string) []string {
	text = strings.Map(func(c rune) rune {
		if asciiPunctuation(c) {
			return -1
		}
		return c
	}, pystr.Lower(text))

	// An article is a whole run of word characters (\b(a|an|the)\b); what
	// stands around it is left alone.
	var b strings.Builder
	for len(text) > 0 {
		end := strings.IndexFunc(text, func(c rune) bool { return !pystr.IsWord(c) })
		switch {
		case end < 0:
			end = len(text)
		case end == 0: // not a word character
			end = strings.IndexFunc(text, pystr.IsWord)
			if end < 0 {
				end = len(text)
			}
		}
		switch run := text[:end]; run {
		case "a", "an", "the":
			b.WriteByte(' ')
		default:
			b.WriteString(run)
		}
		text = text[end:]
	}
	return pystr.Fields(b.String())
}

// asciiPunctuation is membership in Python's string.punctuation.
func asciiPunctuation(c rune) bool {
	return '!' <= c && c <= '/' || ':' <= c && c <= '@' || '[' <= c && c <= '`' || '{' <= c && c <= '~'
}

const chinesePunctuation = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."

func qaF1Chinese(prediction string, ref reference) (float64, error) {
	return f1(normalizeChinese(jieba.Cut(prediction)), normalizeChinese(jieba.Cut(ref.answer))), nil
}

// normalizeChinese lowers words and removes punctuation, white space and words
// of which nothing is left. "《" is not in upstream's list and stays.
func normalizeChinese(words []string) []string {
	out := words[:0]
	for _, w := range words {
		w = strings.Map(func(c rune) rune {
			if asciiPunctuation(c) || pystr.IsSpace(c) || strings.ContainsRune(chinesePunctuation, c) {
				return -1
			}
			return c
		}, pystr.Lower(w))
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}

// f1 compares two bags of words.
func f1(prediction, answer []string) float64 {
	count := make(map[string]int, len(answer))
	for _, w := range answer {
		count[w]++
	}
	same := 0
	for _, w := range prediction {
		if count[w] > 0 {
			count[w]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	precision := float64(same) / float64(len(prediction))
	recall := float64(same) / float64(len(answer))
	return (2 * precision * recall) / (precision + recall)
}

func rougeL(prediction, answer string, frames int) (float64, error) {
	score, err := rouge.L(prediction, answer, frames)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errScoredZero, err)
	}
	return score, nil
}

func rougeLChinese(prediction string, ref reference) (float64, error) {
	return rougeL(strings.Join(jieba.Cut(prediction), " "), strings.Join(jieba.Cut(ref.answer), " "), rougeFramesChinese)
}

func classification(prediction string, ref reference) (float64, error) {
	if len(ref.classes) == 0 {
		return 0, errors.New("no all_classes, which a classification task is scored by")
	}
	var named []string
	for _, class := range ref.classes {
		if strings.Contains(prediction, class) {
			named = append(named, class)
		}
	}
	// Classes that are part of the right class's name do not count against it.
	// Upstream removes from the list it iterates over: the class after a
	// removed one is not looked at, and the first equal one is removed.
	for i := 0; i < len(named); i++ {
		if class := named[i]; class != ref.answer && strings.Contains(ref.answer, class) {
			at := slices.Index(named, class)
			named = slices.Delete(named, at, at+1)
		}
	}
	if !slices.Contains(named, ref.answer) {
		return 0, nil
	}
	return 1.0 / float64(len(named)), nil
}

// retrieval scores by the first number that follows prefix in the answer.
func retrieval(prediction, answer, prefix string) (float64, error) {
	for rest := answer; ; {
		_, after, found := strings.Cut(rest, prefix)
		if !found {
			return 0, fmt.Errorf("answer %q names no paragraph (%q and a number)", answer, prefix)
		}
		rest = after
		end := strings.IndexFunc(after, func(c rune) bool { return !pystr.IsDigit(c) })
		if end < 0 {
			end = len(after)
		}
		if end > 0 {
			return shareOf(after[:end], prediction), nil
		}
	}
}

// shareOf is the share of number among all the numbers in text, compared as
// text, so "07" is not "7".
func shareOf(number, text string) float64 {
	numbers := pystr.Numbers(text)
	if len(numbers) == 0 {
		return 0
	}
	right := 0
	for _, n := range numbers {
		if n == number {
			right++
		}
	}
	return float64(right) / float64(len(numbers))
}

// codeSimilarity compares the first line that is neither a comment nor a Markdown
// fence (upstream: has no "`", "#" or "//") with the answer, in whole per cent.
func codeSimilarity(prediction string, ref reference) (float64, error) {
	line := ""
	for l := range strings.SplitSeq(strings.TrimLeft(prediction, "\n"), "\n") {
		if !strings.ContainsAny(l, "`#") && !strings.Contains(l, "//") {
			line = l
			break
		}
	}
	switch {
	case line == ref.answer:
		return 1, nil
	case line == "" || ref.answer == "":
		return 0, nil
	}
	var ratio float64
	switch ref.similarity {
	case Difflib, "":
		ratio = difflib.Ratio(line, ref.answer)
	case Levenshtein:
		ratio = difflib.IndelRatio(line, ref.answer)
	default:
		return 0, fmt.Errorf("unknown code similarity %q (have %s, %s)", ref.similarity, Difflib, Levenshtein)
	}
	return math.RoundToEven(100*ratio) / 100, nil
}
