"""Writes tiny random-weight llama models as GGUF files: the transformer's real arithmetic, meaningless words.

A model is about 600 KB, is written in a fraction of a second, and always comes out the same for the same seed. Random
weights alone would print raw bytes and never end a JSON value, so the output head is shaped. Channel 0 of every
embedding is the same large number and no layer writes to it; therefore column 0 of the output head adds a constant to
one token's logit, and the other columns can make one token follow another. Invariants this buys:

- raw bytes and control tokens are never the likeliest token, so the text is printable words;
- `"`, `}` and `]` are likely, so that values under a JSON grammar come to an end;
- `<|im_end|>`, the end of a turn, follows a finished tool call;
- in the variant that calls tools, `<tool_call>` begins the turn and a newline follows it; from there llama.cpp's
  grammar shapes the call.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

CONTEXT_TOKENS = 131_072
WIDTH = 64
LAYERS = 2
HEADS = 4
FEED_FORWARD = 128
BIAS_CHANNEL = 0
BIAS_FOLLOWER = -2.5

CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tool_call>", "</tool_call>")
CHARACTERS = string.printable[:95]
WORD_MARK = "\u2581"  # SentencePiece writes the space before a word as this character.
WORDS = tuple(dict.fromkeys("""
    the a of to and in is it you that he was for on are with as his they be at one have this from or had by hot but some
    what there we can out other were all your when up use word how said an each she which do their time if will way
    about many then them would write like so these her long make thing see him two has look more day could go come did
    my sound no most number who over know water than call first people may down side been now find any new work part
    take get place made live where after back little only round man year came show every good me give our under name
    very through just form much great think say help low line before turn cause same mean differ move right boy old too
    does tell sentence set three want air well also play small end put home read hand port large spell add even land
    here must big high such follow act why ask men change went light kind off need house
""".split()))  # fmt: skip

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")  # Hermes-shaped: llama.cpp recognises its tool calls.


@dataclass(frozen=True, slots=True)
class Token:
    """One vocabulary entry; `score` orders merges, the highest first."""

    text: str
    score: float
    kind: gguf.TokenType


def write_model(path: Path, *, seed: int, calls_tools: bool) -> None:
    """Write one model to `path`; with `calls_tools` it answers in tool calls whenever tools are offered."""
    tokens = _vocabulary()
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _describe(writer, tokens)
        _add_weights(writer, tokens, rng, calls_tools=calls_tools)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _vocabulary() -> list[Token]:
    """Specials, the 256 raw bytes, the beginnings of words, printable characters, words; ids go in this order.

    SentencePiece builds a word by merging pairs, so each beginning of a word must be a token for the word to be read as
    one token. Beginnings are read and never written.
    """
    kinds = gguf.TokenType
    tokens = [Token("<unk>", 0, kinds.UNKNOWN)]
    tokens += [Token(text, 0, kinds.CONTROL) for text in CONTROL]
    tokens += [Token(text, 0, kinds.USER_DEFINED) for text in MARKERS]
    tokens += [Token(f"<0x{byte:02X}>", 0, kinds.BYTE) for byte in range(256)]
    marked_words = [WORD_MARK + word for word in WORDS]
    beginnings = {word[:end] for word in marked_words for end in range(2, len(word))}.difference(marked_words)
    tokens += [Token(beginning, -500, kinds.NORMAL) for beginning in sorted(beginnings)]
    tokens += [Token(char.replace(" ", WORD_MARK), -1000 - i, kinds.NORMAL) for i, char in enumerate(CHARACTERS)]
    tokens += [Token(word, -10 - i, kinds.NORMAL) for i, word in enumerate(marked_words)]
    return tokens


def _describe(writer: gguf.GGUFWriter, tokens: list[Token]) -> None:
    """Add the metadata: shape, tokenizer and chat template."""
    ids = _ids(tokens)
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([token.score for token in tokens])
    writer.add_token_types([token.kind for token in tokens])
    writer.add_unk_token_id(ids["<unk>"])
    writer.add_bos_token_id(ids["<s>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE.read_text(encoding="utf-8"))


def _add_weights(writer: gguf.GGUFWriter, tokens: list[Token], rng: np.random.Generator, *, calls_tools: bool) -> None:
    embedding = rng.normal(0, 0.6, (len(tokens), WIDTH))
    embedding[:, BIAS_CHANNEL] = 6.0
    _add(writer, "token_embd", embedding)
    _add(writer, "output", _output_head(tokens, embedding, rng, calls_tools=calls_tools))
    _add(writer, "output_norm", np.ones(WIDTH))
    for layer in range(LAYERS):
        _add_layer(writer, f"blk.{layer}", rng)


def _output_head(tokens: list[Token], embedding: Matrix, rng: np.random.Generator, *, calls_tools: bool) -> Matrix:
    """The rows that score each token; column `BIAS_CHANNEL` is the token's constant, the rest what it follows."""
    ids = _ids(tokens)
    head = rng.normal(0, 0.25, (len(tokens), WIDTH))
    first_character = len(tokens) - len(WORDS) - len(CHARACTERS)
    head[:first_character] = 0
    head[:first_character, BIAS_CHANNEL] = -4
    head[first_character:, BIAS_CHANNEL] = -0.6
    head[-len(WORDS) :, BIAS_CHANNEL] = 0.4
    for closer in ('"', "}", "]"):
        head[ids[closer], BIAS_CHANNEL] = 0.9
    _follow(head, embedding, ids["<|im_end|>"], after=[ids["</tool_call>"], ids[">"]])
    if calls_tools:
        newline = ids["<0x0A>"]
        _follow(head, embedding, ids["<tool_call>"], after=[newline])
        _follow(head, embedding, newline, after=[ids["<tool_call>"]])
    return head


def _follow(head: Matrix, embedding: Matrix, token: int, *, after: list[int]) -> None:
    """Make `token` the likeliest by far where the last token is one of `after`."""
    head[token] = 2.0 * embedding[after].sum(axis=0)
    head[token, BIAS_CHANNEL] = BIAS_FOLLOWER


def _add_layer(writer: gguf.GGUFWriter, block: str, rng: np.random.Generator) -> None:
    """One transformer block, weak enough to leave the last token audible, and silent on `BIAS_CHANNEL`."""
    _add(writer, f"{block}.attn_norm", np.ones(WIDTH))
    _add(writer, f"{block}.ffn_norm", np.ones(WIDTH))
    for name in ("attn_q", "attn_k", "attn_v"):
        _add(writer, f"{block}.{name}", rng.normal(0, 0.25, (WIDTH, WIDTH)))
    attention_out = rng.normal(0, 0.02, (WIDTH, WIDTH))
    attention_out[BIAS_CHANNEL] = 0
    _add(writer, f"{block}.attn_output", attention_out)
    for name in ("ffn_gate", "ffn_up"):
        _add(writer, f"{block}.{name}", rng.normal(0, 0.25, (FEED_FORWARD, WIDTH)))
    down = rng.normal(0, 0.02, (WIDTH, FEED_FORWARD))
    down[BIAS_CHANNEL] = 0
    _add(writer, f"{block}.ffn_down", down)


def _add(writer: gguf.GGUFWriter, name: str, values: Matrix) -> None:
    writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values, dtype=np.float32))


def _ids(tokens: list[Token]) -> dict[str, int]:
    return {token.text: number for number, token in enumerate(tokens)}
