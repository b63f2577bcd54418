package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// This file is what Python does otherwise than gonja. Known differences that are left: gonja has no difference between none and
// undefined ("x is none" holds for a variable that is not there), prints none as nothing, and adds anything to a string.

// templateValue turns a Go value into what templates work on: lists, strings, numbers, and mappings that keep their order, as Python's
// do (gonja sorts the keys of Go maps). It goes by way of JSON.
func templateValue(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int:
		return v, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return readValue(d)
}

func readValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Number:
		if n, err := strconv.Atoi(token.String()); err == nil {
			return n, nil
		}
		return token.Float64()
	case json.Delim:
		switch token {
		case '[':
			l := list{}
			for d.More() {
				v, err := readValue(d)
				if err != nil {
					return nil, err
				}
				l = append(l, v)
			}
			_, err := d.Token()
			return l, err
		case '{':
			dict := exec.NewDict()
			for d.More() {
				key, err := d.Token()
				if err != nil {
					return nil, err
				}
				v, err := readValue(d)
				if err != nil {
					return nil, err
				}
				dict.Pairs = append(dict.Pairs, &exec.Pair{Key: exec.AsValue(key), Value: exec.ToValue(v)})
			}
			_, err := d.Token()
			return dict, err
		}
	}
	return token, nil
}

var pythonFilters = map[string]exec.FilterFunction{
	"tojson": filterToJSON,
	"trim":   filterTrim,
	"items":  filterItems,
}

// filterToJSON is transformers' tojson: json.dumps without ASCII escapes and without the HTML escapes of Jinja's own.
func filterToJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	for len(params.Args) > 0 {
		return exec.AsValue(errors.New("tojson takes keyword arguments only"))
	}
	w := jsonWriter{item: ", ", key: ": "}
	for name, v := range params.KwArgs {
		switch name {
		case "indent":
			if !v.IsNil() {
				w.indent = strings.Repeat(" ", max(v.Integer(), 0))
				w.lines, w.item = true, ","
			}
		case "ensure_ascii":
			w.ascii = v.IsTrue()
		case "separators", "sort_keys":
		default:
			return exec.AsValue(fmt.Errorf("tojson has no argument %q", name))
		}
	}
	if v, ok := params.KwArgs["separators"]; ok && !v.IsNil() {
		w.item, w.key = v.Index(0).String(), v.Index(1).String()
	}
	if v, ok := params.KwArgs["sort_keys"]; ok {
		w.sorted = v.IsTrue()
	}
	if err := w.write(in, 0); err != nil {
		return exec.AsValue(err)
	}
	return exec.AsSafeValue(w.out.String())
}

// jsonWriter writes as Python's json.dumps.
type jsonWriter struct {
	out       strings.Builder
	item, key string
	lines     bool
	indent    string
	ascii     bool
	sorted    bool
}

func (w *jsonWriter) newline(depth int) {
	if w.lines {
		w.out.WriteByte('\n')
		w.out.WriteString(strings.Repeat(w.indent, depth))
	}
}

func (w *jsonWriter) write(v *exec.Value, depth int) error {
	switch {
	case v.IsError():
		return errors.New(v.Error())
	case v.IsNil():
		w.out.WriteString("null")
	case v.IsBool():
		w.out.WriteString(strconv.FormatBool(v.Bool()))
	case v.IsInteger():
		w.out.WriteString(strconv.Itoa(v.Integer()))
	case v.IsFloat():
		w.out.WriteString(pythonFloat(v.Float()))
	case v.IsString():
		w.string(v.String())
	case v.IsList(), v.IsDict():
		return w.members(v, depth)
	default:
		return fmt.Errorf("tojson: %s is not JSON serializable", v.String())
	}
	return nil
}

func (w *jsonWriter) members(v *exec.Value, depth int) error {
	dict := v.IsDict()
	open, end := byte('['), byte(']')
	if dict {
		open, end = '{', '}'
	}
	w.out.WriteByte(open)
	count := 0
	var err error
	v.IterateOrder(func(_, _ int, key, value *exec.Value) bool {
		if count > 0 {
			w.out.WriteString(w.item)
		}
		count++
		w.newline(depth + 1)
		if dict {
			w.string(key.String())
			w.out.WriteString(w.key)
			key = value
		}
		err = w.write(exec.ToValue(key), depth+1)
		return err == nil
	}, func() {}, false, dict && w.sorted, true)
	if count > 0 {
		w.newline(depth)
	}
	w.out.WriteByte(end)
	return err
}

func (w *jsonWriter) string(s string) {
	w.out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.out.WriteByte('\\')
			w.out.WriteRune(r)
		case r == '\n':
			w.out.WriteString(`\n`)
		case r == '\r':
			w.out.WriteString(`\r`)
		case r == '\t':
			w.out.WriteString(`\t`)
		case r == '\b':
			w.out.WriteString(`\b`)
		case r == '\f':
			w.out.WriteString(`\f`)
		case r < ' ' || w.ascii && r >= 0x7F && r < 1<<16 && r != 0x7F:
			fmt.Fprintf(&w.out, `\u%04x`, r)
		case w.ascii && r >= 1<<16:
			r -= 1 << 16
			fmt.Fprintf(&w.out, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
		default:
			w.out.WriteRune(r)
		}
	}
	w.out.WriteByte('"')
}

// pythonFloat is Python's repr of a float.
func pythonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// isPythonSpace is str.isspace, which has four control characters more than Unicode's White_Space.
func isPythonSpace(r rune) bool { return isSpace(r) || r >= 0x1C && r <= 0x1F }

func filterTrim(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	chars := params.GetKeywordArgument("chars", nil)
	if len(params.Args) > 0 {
		chars = params.Args[0]
	}
	return exec.AsValue(strip(in.String(), chars, true, true))
}

// strip is Python's strip, lstrip and rstrip: white space, or any of the characters of a string.
func strip(s string, chars *exec.Value, left, right bool) string {
	cut := isPythonSpace
	if !chars.IsNil() {
		cut = func(r rune) bool { return strings.ContainsRune(chars.String(), r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, cut)
	}
	if right {
		s = strings.TrimRightFunc(s, cut)
	}
	return s
}

func filterItems(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	return exec.AsValue(dictItems(in))
}

// dictItems lists the pairs of a mapping in its order; nothing for what is not defined, as Jinja's items does.
func dictItems(dict *exec.Value) list {
	items := list{}
	if dict.IsDict() {
		dict.Iterate(func(_, _ int, key, value *exec.Value) bool {
			items = append(items, list{key, value})
			return true
		}, func() {})
	}
	return items
}

// pythonTests are gonja's tests with those replaced that take nothing for something.
func pythonTests() *exec.TestSet {
	tests := exec.NewTestSet(map[string]exec.TestFunction{}).Update(builtins.Tests)
	for name, f := range map[string]func(v *exec.Value) bool{
		"true":  func(v *exec.Value) bool { return v.IsBool() && v.Bool() },
		"false": func(v *exec.Value) bool { return v.IsBool() && !v.Bool() },
		// A sequence is what has a length and can be indexed, which strings and mappings can too.
		"sequence": func(v *exec.Value) bool { return v.IsList() || v.IsString() || v.IsDict() },
	} {
		err := tests.Replace(name, func(_ *exec.Context, in *exec.Value, _ *exec.VarArgs) (bool, error) { return f(in), nil })
		if err != nil {
			panic(err)
		}
	}
	return tests
}

// pythonMethods are the methods of strings and mappings. gonja's own work on a mapping's Go map, which has lost its order; those that
// change a mapping are forbidden in transformers' sandbox and are not there.
func pythonMethods() exec.Methods {
	methods := builtins.Methods
	text := map[string]exec.Method[string]{}
	for _, name := range []string{
		"capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "isalnum", "isalpha", "isascii",
		"isdecimal", "isdigit", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower",
		"partition", "removeprefix", "removesuffix", "replace", "rfind", "rjust", "rpartition", "rsplit", "split", "splitlines",
		"startswith", "swapcase", "title", "upper", "zfill",
	} {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			text[name] = m
		}
	}
	for _, name := range listMethods {
		method := text[name]
		text[name] = func(self string, value *exec.Value, args *exec.VarArgs) (any, error) {
			v, err := method(self, value, args)
			return toList(exec.ToValue(v)).Interface(), err
		}
	}
	for name, side := range map[string][2]bool{"strip": {true, true}, "lstrip": {true, false}, "rstrip": {false, true}} {
		text[name] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
			return strip(self, args.First(), side[0], side[1]), nil
		}
	}
	methods.Str = exec.NewMethodSet(text)
	methods.Dict = exec.NewMethodSet(map[string]exec.Method[map[string]any]{
		"items": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) { return dictItems(self), nil },
		"keys": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) {
			return self.Keys(), nil
		},
		"values": func(_ map[string]any, self *exec.Value, _ *exec.VarArgs) (any, error) {
			values := exec.ValuesList{}
			for _, pair := range dictItems(self) {
				values = append(values, pair.(list)[1].(*exec.Value))
			}
			return values, nil
		},
		"get": func(_ map[string]any, self *exec.Value, args *exec.VarArgs) (any, error) {
			if len(args.Args) < 1 || len(args.Args) > 2 {
				return nil, exec.ErrInvalidCall(fmt.Errorf("get takes 1 or 2 arguments, not %d", len(args.Args)))
			}
			if v, ok := self.GetItem(args.Args[0].Interface()); ok {
				return v.Interface(), nil
			}
			if len(args.Args) == 2 {
				return args.Args[1].Interface(), nil
			}
			return nil, nil
		},
	})
	return methods
}

// strftime is Python's strftime for the C locale.
func strftime(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		bare := false
		if i++; i < len(format) && format[i] == '-' { // glibc: no padding
			bare = true
			i++
		}
		if i >= len(format) {
			return "", fmt.Errorf("strftime_now: format %q ends in the middle of a directive", format)
		}
		number := func(n, width int) {
			if bare {
				width = 0
			}
			fmt.Fprintf(&b, "%0*d", width, n)
		}
		switch c := format[i]; c {
		case 'd':
			number(t.Day(), 2)
		case 'm':
			number(int(t.Month()), 2)
		case 'y':
			number(t.Year()%100, 2)
		case 'Y':
			number(t.Year(), 1)
		case 'H':
			number(t.Hour(), 2)
		case 'I':
			number((t.Hour()+11)%12+1, 2)
		case 'M':
			number(t.Minute(), 2)
		case 'S':
			number(t.Second(), 2)
		case 'j':
			number(t.YearDay(), 3)
		default:
			layout, ok := map[byte]string{
				'b': "Jan", 'h': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday", 'p': "PM", 'e': "_2", 'F': "2006-01-02",
				'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
				'z': "", 'Z': "", '%': "%",
			}[c]
			if !ok {
				return "", fmt.Errorf("strftime_now: directive %%%c is not known", c)
			}
			b.WriteString(t.Format(layout))
		}
	}
	return b.String(), nil
}

// list is a list whose negative indices work: gonja takes x[-1] of a list of one for out of range.
type list []any

// GetItem implements exec.ItemGetter.
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if !ok {
		return exec.AsValue(nil), false
	}
	if i < 0 {
		i += len(l)
	}
	if i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.ToValue(l[i]), true
}

// toList makes a list of any slice.
func toList(v *exec.Value) *exec.Value {
	if v == nil || !v.IsList() {
		return v
	}
	l := make(list, v.Len())
	for i := range l {
		l[i] = v.Index(i)
	}
	return exec.AsValue(l)
}

// listFilters are the filters that give lists.
var listFilters = []string{
	"batch", "dictsort", "groupby", "items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sort", "unique",
}

// listMethods are the methods of strings that give lists.
var listMethods = []string{"partition", "rpartition", "rsplit", "split", "splitlines"}
