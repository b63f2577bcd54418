package configs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

//go:embed *.yaml
var shipped embed.FS

// Shipped are the names of the experiment files that the program carries.
func Shipped() []string {
	names, err := fs.Glob(shipped, "*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	return names
}

// Summary is what a shipped experiment is for: the first line of its comment.
func Summary(name string) string {
	raw, err := shipped.ReadFile(name)
	if err != nil {
		panic(err) // not a name of Shipped
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimPrefix(line, "# ")
}

// maxBytes bounds an experiment file.
const maxBytes = 1 << 20

// ReadFile gives an experiment file's content: the file at path or, where there
// is none or a folder, the shipped one of that name ("quickstart.yaml", also
// "configs/quickstart.yaml" or "quickstart").
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		name := strings.TrimPrefix(filepath.ToSlash(path), "configs/")
		if raw, shippedErr := shipped.ReadFile(strings.TrimSuffix(name, ".yaml") + ".yaml"); shippedErr == nil {
			return raw, nil
		}
		if err == nil {
			return nil, fmt.Errorf("%s is a folder, want an experiment file", path)
		}
		return nil, fmt.Errorf("%w; experiments that ship with the program: %s", err, strings.Join(Shipped(), ", "))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(raw) > maxBytes {
		err = fmt.Errorf("%s: larger than 1 MiB, not an experiment file", path)
	}
	return raw, err
}

// Source is one place that sets keys beside the file.
type Source struct {
	Name  string // for errors, e.g. "--set" or "--steps"
	Key   string // e.g. "train.steps"
	Value string
}

// SetFlag makes a Source of "key=value".
func SetFlag(text string) (Source, error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return Source{}, &KeyError{Source: "--set", Key: text, Problem: "want key=value, such as train.steps=400"}
	}
	return Source{"--set", strings.TrimSpace(key), strings.TrimSpace(value)}, nil
}

// EnvPrefix starts the variables that set keys: HASHATTN_TRAIN_STEPS sets
// train.steps.
const EnvPrefix = "HASHATTN"

// Load decodes an experiment: the defaults, then the file's content (name is
// for errors; nil content is an empty file), then the variables of environ
// ("NAME=value", as os.Environ gives), then sources, in order.
func Load(name string, content []byte, environ []string, sources ...Source) (*Experiment, error) {
	v := viper.NewWithOptions(viper.WithLogger(nil))
	if content != nil {
		root, err := parse(name, content)
		if err != nil {
			return nil, err
		}
		if root != nil {
			// The file is checked by itself, so that errors carry its lines.
			if err := (decoder{source: name}).decode(root, "", reflect.ValueOf(Default()).Elem(), limits{}); err != nil {
				return nil, err
			}
			var m map[string]any
			if err := root.Decode(&m); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if err := v.MergeConfigMap(m); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	fromEnv, err := environment(environ)
	if err != nil {
		return nil, err
	}
	for _, s := range append(fromEnv, sources...) {
		if err := s.check(); err != nil {
			return nil, err
		}
		v.Set(s.Key, s.Value)
	}
	var merged yaml.Node
	if err := merged.Encode(v.AllSettings()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e := Default()
	if err := (decoder{source: name, loose: true}).decode(&merged, "", reflect.ValueOf(e).Elem(), limits{}); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		var key *KeyError
		if errors.As(err, &key) && key.Source == "" {
			key.Source = name
		}
		return nil, err
	}
	return e, nil
}

// parse reads the one YAML document of a file; nil for an empty one.
func parse(name string, content []byte) (*yaml.Node, error) {
	if len(content) > maxBytes {
		return nil, fmt.Errorf("%s: larger than 1 MiB, not an experiment file", name)
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	var doc, second yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one document", name)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// check decodes a source's value by itself, so that an error names the source.
func (s Source) check() error {
	isKey := false
	for _, k := range Keys() {
		isKey = isKey || k.Path == s.Key
	}
	if !isKey {
		problem := "unknown key" + suggestion(s.Key)
		for _, p := range paths() {
			if p == s.Key {
				problem = "is a section; set one of its keys, such as " + firstKey(p)
			}
		}
		return &KeyError{s.Name, s.Key, problem}
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.Value}
	names := strings.Split(s.Key, ".")
	for i := len(names) - 1; i >= 0; i-- {
		node = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: names[i]}, node}}
	}
	return decoder{source: s.Name, loose: true}.decode(node, "", reflect.ValueOf(Default()).Elem(), limits{})
}

func firstKey(section string) string {
	for _, k := range Keys() {
		if strings.HasPrefix(k.Path, section+".") {
			return k.Path
		}
	}
	return section
}

// environment gives the keys that variables set, in the order of their names.
// A variable below a section that no key has is an error; other HASHATTN_
// variables are not the experiment's.
func environment(environ []string) ([]Source, error) {
	byName := map[string]string{}
	var sections []string
	for _, p := range paths() {
		name := EnvName(p)
		byName[name] = p
		if parent(p) != "" {
			sections = append(sections, EnvName(parent(p))+"_")
		}
	}
	var out []Source
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		key, ok := byName[name]
		switch {
		case value == "": // as good as not set
			continue
		case ok:
			out = append(out, Source{name, key, value})
			continue
		}
		for _, s := range sections {
			if strings.HasPrefix(name, s) && byName[name] == "" {
				var names []string
				for n := range byName {
					names = append(names, n)
				}
				sort.Strings(names)
				return nil, &KeyError{"environment", name, "sets no key" + didYouMean(name, names)}
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// EnvName is the variable that sets a key.
func EnvName(path string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}
