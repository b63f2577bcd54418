package result

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

// LossRow is one line of a loss curve (JSON lines), as training appends it.
type LossRow struct {
	Preset string  `json:"preset,omitempty"` // where curves of several stand together
	Layer  int     `json:"layer"`
	Head   int     `json:"head"` // the KV head, or the query head in the paper's recipe
	Step   int     `json:"step"`
	Loss   float64 `json:"loss"`
}

// ReadLosses reads a loss curve. A last line without its end, as a killed
// process leaves it, is dropped.
func ReadLosses(path string) ([]LossRow, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var rows []LossRow
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<16)
	var pending error
	for line := 1; s.Scan(); line++ {
		if pending != nil {
			return nil, pending
		}
		var r LossRow
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			pending = fmt.Errorf("%s:%d: not a loss row: %w", path, line, err)
			continue
		}
		rows = append(rows, r)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if pending != nil && len(rows) == 0 {
		return nil, pending
	}
	return rows, nil
}
