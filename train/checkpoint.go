package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashattn/hashattn/model/atomicfile"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

// recipe counts changes of the code that change what is learnt, so that
// checkpoints of other versions are not mixed in.
const recipe = 4

// store keeps the maps of finished units, each as a mapping of one layer with
// one KV head, and their loss curves. With an empty dir it keeps nothing.
type store struct{ dir, hash string }

// Hash identifies what a configuration learns from a trace. Settings that only
// matter when the mapping is used do not count.
func Hash(r *trace.Reader, c Config) string {
	c.Layers, c.DenseLayers = nil, nil // units do not know of each other
	c.Candidates = 0
	if !c.QueryAware {
		c.QueryBits = 0
	}
	h := sha256.New()
	e := json.NewEncoder(h)
	for _, part := range []any{recipe, c, r.Header, r.Shards} {
		if err := e.Encode(part); err != nil {
			panic(err) // plain structs always encode
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func openStore(dir string, r *trace.Reader, c Config) (*store, error) {
	s := &store{dir, Hash(r, c)}
	if dir == "" {
		return s, nil
	}
	return s, os.MkdirAll(dir, 0o777)
}

func (s *store) path(u *unit, ext string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%.16s-%03d-%03d%s", u.config.Preset, s.hash, u.layer, u.head(), ext))
}

// load reads a unit's maps if they are there.
func (s *store) load(u *unit, m *trained) (bool, error) {
	if s.dir == "" {
		return false, nil
	}
	path := s.path(u, ".safetensors")
	one, err := mapping.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("checkpoint: %w: delete it to train it again", err)
	}
	if one.TrainingHash != s.hash || len(one.Layers) != 1 {
		return false, fmt.Errorf("checkpoint %s is of another training: delete it", path)
	}
	*m = trained{one.Layers[0].Key, one.Layers[0].Query}
	return true, nil
}

// save writes a unit's loss curve, then its maps.
func (s *store) save(u *unit, m trained, curve []point) error {
	if s.dir == "" {
		return nil
	}
	err := atomicfile.Write(s.path(u, ".jsonl"), func(w io.Writer) error {
		e := json.NewEncoder(w)
		for _, p := range curve {
			if err := e.Encode(p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	model := u.trace.Model
	c := u.config.mapping(shape.Model{Name: model.Name, Fingerprint: model.Fingerprint, Rope: model.Rope,
		Layers: 1, QueryHeads: u.heads, KVHeads: 1, HeadDim: u.dim}, []int{0})
	if u.config.Preset == "grouped" && !u.joint && c.GroupRule == mapping.Sum {
		c.PerHeadLayers = []int{0}
	}
	c.TrainingHash = s.hash
	one := &mapping.Mapping{Config: c, Layers: []*mapping.Layer{{Key: m.key, Query: m.query}}}
	return one.Save(s.path(u, ".safetensors"))
}

// join writes the loss curves of all units to losses.jsonl, a line a point:
// {"layer", "head", "step", "loss"}.
func (s *store) join(units []*unit) error {
	if s.dir == "" {
		return nil
	}
	return atomicfile.Write(filepath.Join(s.dir, LossFile), func(w io.Writer) error {
		for _, u := range units {
			data, err := os.ReadFile(s.path(u, ".jsonl"))
			if err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return nil
	})
}

// LossFile is the name of the loss curves in the checkpoint folder.
const LossFile = "losses.jsonl"
