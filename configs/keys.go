package configs

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"
)

// Key is one setting of an experiment.
type Key struct {
	Path        string // e.g. "train.steps"
	Description string
	Bool        bool // true or false: as a flag it needs no value
}

// limits are the values that a field's tag allows.
type limits struct {
	enum             []string
	ranged           bool
	minimum, maximum int64
}

// field is a struct's field by its key.
type field struct {
	name        string
	index       []int
	limits      limits
	description string
}

func limitsOf(f reflect.StructField) limits {
	var l limits
	for part := range strings.SplitSeq(f.Tag.Get("jsonschema"), ",") {
		k, v, _ := strings.Cut(part, "=")
		switch k {
		case "enum":
			l.enum = append(l.enum, v)
		case "minimum":
			l.ranged = true
			l.minimum, _ = strconv.ParseInt(v, 10, 64)
		case "maximum":
			l.maximum, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	return l
}

// fields are a struct type's fields in order.
func fields(t reflect.Type) []field {
	out := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out = append(out, field{name, f.Index, limitsOf(f), f.Tag.Get("jsonschema_description")})
	}
	return out
}

func fieldNamed(t reflect.Type, name string, fold bool) (field, bool) {
	for _, f := range fields(t) {
		if f.name == name || fold && strings.EqualFold(f.name, name) {
			return f, true
		}
	}
	return field{}, false
}

// Keys are all settings in the order of the file. A list is one setting.
func Keys() []Key {
	var keys []Key
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for _, f := range fields(t) {
			ft := t.FieldByIndex(f.index).Type
			_, text := reflect.New(ft).Interface().(encoding.TextUnmarshaler)
			if ft.Kind() == reflect.Struct && !text {
				walk(join(prefix, f.name), ft)
				continue
			}
			description := f.description
			if len(f.limits.enum) > 0 {
				description += " One of " + strings.Join(nonEmpty(f.limits.enum), ", ") + "."
			}
			keys = append(keys, Key{join(prefix, f.name), description, ft.Kind() == reflect.Bool})
		}
	}
	walk("", reflect.TypeFor[Experiment]())
	return keys
}

// paths are the paths of all settings and sections.
func paths() []string {
	seen := map[string]bool{}
	var out []string
	for _, k := range Keys() {
		for p := k.Path; p != ""; p = parent(p) {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

// suggestion is ", did you mean X?" for the key nearest to an unknown one.
func suggestion(path string) string {
	// A key that exists elsewhere was most likely meant there.
	name := path[strings.LastIndexByte(path, '.')+1:]
	near := didYouMean(path, paths())
	if near == "" {
		for _, p := range paths() {
			if strings.EqualFold(p[strings.LastIndexByte(p, '.')+1:], name) {
				return ", did you mean " + p + "?"
			}
		}
	}
	return near
}

// didYouMean names the nearest of the words, if one is near.
func didYouMean(word string, words []string) string {
	best, least := "", 1+max(2, len(word)/3)
	for _, w := range words {
		if w == "" {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// distance is Levenshtein's edit distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, cost)
		}
	}
	return row[len(b)]
}
