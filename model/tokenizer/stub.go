package tokenizer
type Tokenizer struct{}
func (t *Tokenizer) VocabSize() int { return 1 }
func (t *Tokenizer) IsEOG(int32) bool { return false }
func FromGGUF(m any) (*Tokenizer, error) { return &Tokenizer{}, nil }
func FromFolder(p string) (*Tokenizer, error) { return &Tokenizer{}, nil }
