package configs

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"
)

// Schema is the JSON schema of an experiment file, indented.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		RequiredFromJSONSchemaTags: true, // no key is required: each has a default
		ExpandedStruct:             true,
	}
	s := r.Reflect(&Experiment{})
	s.Title = "hashattn experiment"
	return json.MarshalIndent(s, "", "  ")
}

// YAML is the experiment as a file, with what each key means.
func (e *Experiment) YAML() ([]byte, error) {
	node, err := toNode(reflect.ValueOf(e).Elem())
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(node)
}

// toNode is the reverse of decode.
func toNode(v reflect.Value) (*yaml.Node, error) {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		return &yaml.Node{Kind: yaml.ScalarNode, Value: string(text)}, err
	}
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fields(v.Type()) {
			fv := v.FieldByIndex(f.index)
			value, err := toNode(fv)
			if err != nil {
				return nil, err
			}
			name := &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}
			switch {
			case fv.Kind() == reflect.Struct && value.Kind == yaml.MappingNode:
				name.HeadComment = "\n" + f.description
			case value.Kind == yaml.SequenceNode && value.Style != yaml.FlowStyle:
				name.HeadComment = f.description
			default:
				value.LineComment = f.description
			}
			n.Content = append(n.Content, name, value)
		}
		return n, nil
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Type() != reflect.TypeFor[[]Selector]() {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			item, err := toNode(v.Index(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	case reflect.String:
		n := new(yaml.Node)
		return n, n.Encode(v.String())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}, nil
}
