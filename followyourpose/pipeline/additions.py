"""Additions to a loaded pipeline: LoRAs and their kin, textual inversions, another VAE."""

from collections.abc import Mapping
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from followyourpose.models.loading import EMBEDDING_NAME, LORA_NAME, is_offloaded, quiet
from followyourpose.pipeline.embeddings import check_embedding, read_embedding, with_all_vectors
from followyourpose.pipeline.image_model import load_vae
from followyourpose.pipeline.lora import check_lora, read_lora
from followyourpose.pipeline.names import Name, left_to_diffusers, resolved, weights_at


class Additions(StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """The part of `FollowYourPosePipeline` that adds files to its networks."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Name | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA into UNet and text encoder; arguments as for diffusers' method.

        Args:
            pretrained_model_name_or_path_or_dict: a file of kohya's or diffusers' format, or of a DoRA, LoHa, LoKr, IA3
                or full difference of LyCORIS; its folder, a hub id, "owner/name" or "owner/name/file", with
                "@revision"; or the weights themselves.

        Raises:
            ValueError: it cannot be read, or does not fit this model; the message names a layer and its shapes. Nothing
                is loaded then.
        """
        source: Any = pretrained_model_name_or_path_or_dict
        name = "the given weights" if isinstance(source, dict) else str(source)
        networks = {key: part for key in ("unet", "text_encoder") if (part := getattr(self, key)) is not None}
        self._check_places(name, networks)
        if not isinstance(source, dict) and left_to_diffusers(source, kwargs):
            source = str(source)
        else:
            source = source if isinstance(source, dict) else weights_at(source, "lora", LORA_NAME, kwargs)
            converted = read_lora(source, name, networks)
            source = str(source) if converted is None else converted
        try:
            state_dict, *_ = self.lora_state_dict(source.copy() if isinstance(source, dict) else source, **kwargs)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{name}: cannot be read as a LoRA ({' '.join(str(error).split())[:300]})") from error
        check_lora(name, state_dict, networks)
        super().load_lora_weights(source, adapter_name=adapter_name, hotswap=hotswap, **kwargs)

    @staticmethod
    def _check_places(name: str, networks: Mapping[str, nn.Module]) -> None:
        for key, network in networks.items():
            if is_offloaded(network, to_disk=True):
                raise ValueError(f"{name}: {key} is offloaded to a disk, expected LoRAs to be loaded before that")

    @classmethod
    def load_lora_into_unet(cls, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Load the UNet's part of a LoRA, where there is one; diffusers would warn of none."""
        if any(name.startswith(f"{cls.unet_name}.") for name in state_dict):
            super().load_lora_into_unet(state_dict, *args, **kwargs)

    @classmethod
    def load_lora_into_text_encoder(cls, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Load the text encoder's part of a LoRA, where there is one; diffusers would warn of none."""
        if any(name.startswith(f"{cls.text_encoder_name}.") for name in state_dict):
            super().load_lora_into_text_encoder(state_dict, *args, **kwargs)

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: Any,
        token: str | list[str] | None = None,
        tokenizer: Any = None,
        text_encoder: Any = None,
        **kwargs: Any,
    ) -> None:
        """Give the text encoder words by textual inversions; arguments as for diffusers' method.

        Args:
            pretrained_model_name_or_path: a file of diffusers or AUTOMATIC1111, its folder, a hub id, {word: vectors
                (n, d)}, vectors, or a list of these.
            token: the word, or one for each; None: the file's own.

        Raises:
            ValueError: it cannot be read or has another width, or its word is in the vocabulary already. Nothing is
                loaded then.
        """
        given: Any = pretrained_model_name_or_path
        sources = given if isinstance(given, list) else [given]
        tokenizer, text_encoder = tokenizer or self.tokenizer, text_encoder or self.text_encoder
        if tokenizer is None or text_encoder is None:
            raise ValueError("got a pipeline without tokenizer or text_encoder, expected both for a textual inversion")
        if any(isinstance(source, str) and left_to_diffusers(source, kwargs) for source in sources):
            super().load_textual_inversion(given, token, tokenizer, text_encoder, **kwargs)
            return
        words = token if isinstance(token, list) else [token] * len(sources)
        if len(words) != len(sources):
            raise ValueError(f"token: got {len(words)} for {len(sources)} textual inversions, expected one each")
        width = text_encoder.get_input_embeddings().weight.shape[1]
        vocabulary, found = {entry.lower() for entry in tokenizer.get_vocab()}, []
        for source, word in zip(sources, words, strict=True):
            name = "the given vectors" if isinstance(source, Mapping | Tensor) else str(source)
            source = {word: source} if isinstance(source, Tensor) else source
            if not isinstance(source, Mapping):
                source = weights_at(source, "embeddings", EMBEDDING_NAME, dict(kwargs))
            word, vectors = read_embedding(source, word)
            check_embedding(name, word, vectors, width, vocabulary)
            vocabulary.add(word.lower())  # taken, for the next one
            found.append({word: vectors})
        with quiet():
            super().load_textual_inversion(found, tokenizer=tokenizer, text_encoder=text_encoder)

    def _maybe_convert_prompt(self, prompt: str, tokenizer: Any) -> str:
        """Take the place of diffusers' method, which finds no word with a capital letter."""
        return with_all_vectors(prompt, tokenizer.added_tokens_encoder)

    def load_vae(self, path: Name) -> None:
        """Replace the VAE by another one of the same latents, such as a fine-tuned decoder.

        Args:
            path: a diffusers folder of a VAE, or of a model with one, a single file, or a name or hub id of these.

        Raises:
            ValueError: it cannot be read, or its latents are others.
        """
        if self.vae is None:
            raise ValueError("got a pipeline without a VAE, expected one to take its place")
        self.vae = load_vae(resolved(path, "vae"), self.vae).to(self.vae.device)
