// Package tokenizer turns text into the token ids of a model and back, and renders chats with the model's own template.
//
// A [Tokenizer] is read from Hugging Face's tokenizer.json ([FromJSON], [FromDir]), from GGUF metadata ([FromGGUF]) or from a
// SentencePiece model ([FromSentencePiece]). Whatever the source, a text takes one way, that of Hugging Face's tokenizers library:
//
//	text -> added tokens cut out (added.go) -> normalised (normalize.go) -> split into words (pretokenize.go, scan.go)
//	     -> merged into tokens (bpe.go, sentencepiece.go; both on merge.go) -> special tokens added around
//
// The ids are those that the tokenizers and sentencepiece libraries give. What this package does not know (another model type, an
// unknown pre-tokenizer pattern) is an error when the tokenizer is read: it never guesses.
package tokenizer
