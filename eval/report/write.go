package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hashattn/hashattn/model/atomicfile"
)

// writer is the table in go-pretty's form. Columns of numbers are set right.
func (t Table) writer() table.Writer {
	w := table.NewWriter()
	header := make(table.Row, len(t.Columns))
	for i, c := range t.Columns {
		header[i] = c
	}
	w.AppendHeader(header)
	configs := make([]table.ColumnConfig, len(t.Columns))
	for i := range t.Columns {
		configs[i] = table.ColumnConfig{Number: i + 1, Align: text.AlignLeft, AlignHeader: text.AlignLeft}
		if t.numeric(i) {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
	}
	w.SetColumnConfigs(configs)
	for _, row := range t.Rows {
		cells := make(table.Row, len(row))
		for i, c := range row {
			cells[i] = c
		}
		w.AppendRow(cells)
	}
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Options.SeparateHeader = true
	style.HTML.CSSClass = ""
	w.SetStyle(style)
	return w
}

// numeric says whether every cell of a column starts as a number does.
func (t Table) numeric(column int) bool {
	for _, row := range t.Rows {
		if c := row[column]; c == "" || !strings.ContainsRune("+-0123456789", rune(c[0])) {
			return false
		}
	}
	return len(t.Rows) > 0
}

// Terminal writes the table for a terminal.
func (t Table) Terminal(w io.Writer) error {
	out := t.Title + "\n\n" + t.writer().Render() + "\n"
	if t.Note != "" {
		out += t.Note + "\n"
	}
	_, err := io.WriteString(w, out+"\n")
	return err
}

// Markdown writes the table under its title.
func (t Table) Markdown(w io.Writer) error {
	out := "## " + t.Title + "\n\n" + t.flat().writer().RenderMarkdown() + "\n"
	if t.Note != "" {
		out += "\n" + t.Note + "\n"
	}
	_, err := io.WriteString(w, out+"\n")
	return err
}

// CSV gives the table as comma-separated values with a header.
func (t Table) CSV() []byte { return []byte(t.flat().writer().RenderCSV() + "\n") }

// flat is the table with one-line column names.
func (t Table) flat() Table {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = strings.ReplaceAll(c, "\n", " ")
	}
	t.Columns = columns
	return t
}

// Terminal writes all tables.
func (r *Report) Terminal(w io.Writer) error {
	for _, t := range r.Tables() {
		if err := t.Terminal(w); err != nil {
			return err
		}
	}
	return nil
}

// Markdown writes the tables and refers to the drawings in the folder plots.
func (r *Report) Markdown(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "# %s\n\n", r.Title); err != nil {
		return err
	}
	tables := r.Tables()
	if err := tables[0].Markdown(w); err != nil {
		return err
	}
	figures, err := r.Figures()
	if err != nil {
		return err
	}
	for _, f := range figures {
		if _, err := fmt.Fprintf(w, "![%s](plots/%s.svg)\n\n", f.Title, f.Name); err != nil {
			return err
		}
	}
	for _, t := range tables[1:] {
		if err := t.Markdown(w); err != nil {
			return err
		}
	}
	return nil
}

//go:embed page.html.tmpl
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

// HTML writes one self-contained page.
func (r *Report) HTML(w io.Writer) error {
	type section struct {
		Title, Note string
		Table       template.HTML
	}
	type figure struct {
		Map, Wide bool
		SVG       template.HTML
	}
	data := struct {
		Title    string
		Summary  section
		Figures  []figure
		Sections []section
	}{Title: r.Title}
	for i, t := range r.Tables() {
		// go-pretty escapes the cells.
		s := section{t.Title, t.Note, template.HTML(t.writer().RenderHTML())}
		if i == 0 {
			data.Summary = s
			continue
		}
		data.Sections = append(data.Sections, s)
	}
	figures, err := r.Figures()
	if err != nil {
		return err
	}
	for _, f := range figures {
		svg, err := f.SVG()
		if err != nil {
			return err
		}
		data.Figures = append(data.Figures, figure{f.Map, f.Wide, template.HTML(svg)})
	}
	return page.Execute(w, data)
}

// Write writes report.md, report.html, plots/*.svg and csv/*.csv into dir.
func (r *Report) Write(dir string) error {
	for _, sub := range []string{"plots", "csv"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	figures, err := r.Figures()
	if err != nil {
		return err
	}
	for _, f := range figures {
		svg, err := f.SVG()
		if err == nil {
			err = atomicfile.Replace(filepath.Join(dir, "plots", f.Name+".svg"), svg)
		}
		if err != nil {
			return err
		}
	}
	for _, t := range r.Tables() {
		if err := atomicfile.Replace(filepath.Join(dir, "csv", t.Name+".csv"), t.CSV()); err != nil {
			return err
		}
	}
	for name, write := range map[string]func(io.Writer) error{"report.md": r.Markdown, "report.html": r.HTML} {
		var buf bytes.Buffer
		if err := write(&buf); err != nil {
			return err
		}
		if err := atomicfile.Replace(filepath.Join(dir, name), buf.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
