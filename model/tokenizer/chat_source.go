package tokenizer

import "strings"

// rewriteConditionals rewrites the conditional expressions that gonja cannot parse: it knows "a if b else c" only as the whole of an
// output or an assignment, not within brackets and not chained. Such a one becomes ((b) and [a] or [c])[0], which is lazy as well, and
// right for an empty a, as a list of one is always true.
func rewriteConditionals(source string) string {
	var out strings.Builder
	for {
		i := strings.Index(source, "{")
		if i < 0 || i+1 == len(source) {
			out.WriteString(source)
			return out.String()
		}
		out.WriteString(source[:i])
		source = source[i:]
		n := 1
		switch source[:2] {
		case "{#":
			n = blockEnd(source, "#}", false)
		case "{{":
			n = blockEnd(source, "}}", true)
			out.WriteString(rewriteBlock(source[:n], ""))
			source = source[n:]
			continue
		case "{%":
			n = blockEnd(source, "%}", true)
			name := statementName(source[:n])
			if name != "raw" {
				out.WriteString(rewriteBlock(source[:n], name))
				source = source[n:]
				continue
			}
			for rest := n; ; { // up to and including endraw
				k := strings.Index(source[rest:], "{%")
				if k < 0 {
					n = len(source)
					break
				}
				rest += k
				n = rest + blockEnd(source[rest:], "%}", true)
				if statementName(source[rest:n]) == "endraw" {
					break
				}
				rest += 2
			}
		}
		out.WriteString(source[:n])
		source = source[n:]
	}
}

// blockEnd returns where the block that source begins with ends, after its closing delimiter. An expression may contain the delimiter
// within a string or brackets.
func blockEnd(source, closing string, expression bool) int {
	depth := 0
	for i := 2; i < len(source); i++ {
		switch c := source[i]; {
		case depth == 0 && strings.HasPrefix(source[i:], closing):
			return i + 2
		case !expression:
		case c == '\'' || c == '"':
			i = stringEnd(source, i) - 1
		case c == '(' || c == '[' || c == '{':
			depth++
		case (c == ')' || c == ']' || c == '}') && depth > 0:
			depth--
		}
	}
	return len(source)
}

// stringEnd returns the end of the string literal that begins at s[i].
func stringEnd(s string, i int) int {
	for k := i + 1; k < len(s); k++ {
		switch s[k] {
		case '\\':
			k++
		case s[i]:
			return k + 1
		}
	}
	return len(s)
}

func statementName(block string) string {
	name := strings.TrimLeft(block[2:], "-+ \t\r\n")
	for i := range len(name) {
		if !isIdentifier(name[i]) {
			return name[:i]
		}
	}
	return name
}

func isIdentifier(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// rewriteBlock rewrites a block with its delimiters; name is that of a statement, "" for an output.
func rewriteBlock(block, name string) string {
	block = joinLines(block)
	if len(block) < 4 || !strings.Contains(block, "if") {
		return block
	}
	start, end := 2, len(block)-2
	if block[start] == '-' || block[start] == '+' {
		start++
	}
	if end > start && (block[end-1] == '-' || block[end-1] == '+') {
		end--
	}
	r := rewriter{source: block[:end], at: start}
	inner := r.group(true, name == "" || name == "set")
	return block[:start] + inner + block[min(r.at, end):]
}

// joinLines takes a backslash at the end of a line out of string literals, with the line end, as Python does.
func joinLines(block string) string {
	if !strings.Contains(block, "\\\n") {
		return block
	}
	var out strings.Builder
	for i := 0; i < len(block); i++ {
		if c := block[i]; c != '\'' && c != '"' {
			out.WriteByte(c)
			continue
		}
		end := stringEnd(block, i)
		for ; i < end; i++ {
			if block[i] == '\\' && i+1 < end {
				if i++; block[i] == '\n' {
					continue
				}
				out.WriteByte('\\')
			}
			out.WriteByte(block[i])
		}
		i--
	}
	return out.String()
}

// rewriter reads an expression.
type rewriter struct {
	source string
	at     int
}

// group reads up to the bracket that closes it, which it leaves, or the end. Parts between commas, colons and assignments are
// expressions of their own. At the top of a block a single conditional is left to gonja, and in statements other than set "if" is
// theirs.
func (r *rewriter) group(top, expression bool) string {
	var out strings.Builder
	words := []string{""} // the part being read, cut at each if and else
	var keys []string
	flush := func() {
		switch {
		case len(keys) == 0 || top && (len(keys) <= 2 || !expression):
			for i, w := range words {
				if i > 0 {
					out.WriteString(keys[i-1])
				}
				out.WriteString(w)
			}
		default:
			out.WriteString(conditional(words, keys))
		}
		words, keys = []string{""}, nil
	}
	add := func(s string) { words[len(words)-1] += s }
	for r.at < len(r.source) {
		c := r.source[r.at]
		switch {
		case c == '\'' || c == '"':
			end := stringEnd(r.source, r.at)
			add(r.source[r.at:end])
			r.at = end
		case c == '(' || c == '[' || c == '{':
			r.at++
			add(string(c) + r.group(false, true))
		case c == ')' || c == ']' || c == '}':
			if !top {
				flush()
				out.WriteByte(c)
				r.at++
				return out.String()
			}
			add(string(c))
			r.at++
		case c == ',' || c == ':' || c == '=' && r.assigns():
			flush()
			out.WriteByte(c)
			r.at++
		case isIdentifier(c):
			end := r.at
			for end < len(r.source) && isIdentifier(r.source[end]) {
				end++
			}
			word := r.source[r.at:end]
			if (word == "if" || word == "else") && !(top && !expression) && r.source[r.at-1] != '.' {
				keys = append(keys, word)
				words = append(words, "")
			} else {
				add(word)
			}
			r.at = end
		default:
			add(string(c))
			r.at++
		}
	}
	flush()
	return out.String()
}

// assigns says whether the = at hand is none of ==, !=, <=, >=.
func (r *rewriter) assigns() bool {
	return !strings.ContainsRune("=!<>", rune(r.source[r.at-1])) && !strings.HasPrefix(r.source[r.at+1:], "=")
}

// conditional rewrites words[0] if words[1] else words[2] ...; what does not have this form stays as it is, for the parser to refuse.
func conditional(words, keys []string) string {
	switch {
	case len(keys) == 0:
		return words[0]
	case keys[0] == "if" && len(keys) == 1:
		return " ((" + words[1] + ") and [" + words[0] + "] or [none])[0] "
	case keys[0] == "if" && keys[1] == "else":
		return " ((" + words[1] + ") and [" + words[0] + "] or [" + conditional(words[2:], keys[2:]) + "])[0] "
	}
	text := words[0]
	for i, k := range keys {
		text += k + words[i+1]
	}
	return text
}
