package tokenizer_test

import (
	"fmt"
	"log"

	"github.com/hashattn/hashattn/model/tokenizer"
)

const small = `{"added_tokens": [{"id": 4, "content": "<end>", "special": true}],
	"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
	"model": {"type": "BPE", "vocab": {"h": 0, "i": 1, "Ġ": 2, "hi": 3}, "merges": ["h i"]}}`

func ExampleFromJSON() {
	t, err := tokenizer.FromJSON([]byte(small), []byte(`{"eos_token": "<end>"}`))
	if err != nil {
		log.Fatal(err)
	}
	ids := t.Encode("hi hi<end>", true)
	fmt.Println(ids, t.IsEOG(ids[len(ids)-1]))
	fmt.Println(t.Decode(ids, true))
	// Output:
	// [3 2 3 4] true
	// hi hi
}

func ExampleParseChatTemplate() {
	c, err := tokenizer.ParseChatTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}", nil)
	if err != nil {
		log.Fatal(err)
	}
	text, err := c.Render([]tokenizer.Message{{Role: "user", Content: "Hello"}, {Role: "assistant", Content: "Hi."}}, false, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(text)
	// Output:
	// [user] Hello
	// [assistant] Hi.
}
