"""A small decoder that knows nothing yet, over single characters or over words and numbers."""

from __future__ import annotations

from pathlib import Path


def decoder(
    folder: Path,
    letters: str = "",
    words: str = "",
    numbers: int = 0,
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    window: int = 128,
    seed: int = 0,
) -> None:
    """Write a decoder with random weights and its tokenizer, in the Hugging Face layout.

    Args:
        letters: Characters that are tokens, blanks among them. Leave it out for words.
        words: Words and signs that are tokens, with blanks between them; blanks themselves are none
            then.
        numbers: Whole numbers below this are tokens, too.
        width: Size of the hidden states; the feed-forward layers have three times as much.
        layers: Blocks.
        heads: Of attention.
        window: Longest sequence, in tokens.
        seed: Of the weights.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    signs = ["<pad>", "<end>", "<unk>", *letters, *words.split(), *map(str, range(numbers))]
    tokenizer = Tokenizer(
        models.WordLevel({sign: number for number, sign in enumerate(signs)}, unk_token="<unk>")
    )
    if letters:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(
            Regex(r"[a-z]+|\d+|\S"), "removed", invert=True
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(signs),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
