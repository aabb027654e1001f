"""The registered medical dual encoders, with the facts that a reader needs to judge their scores.

Sizes, files and hashes are the published ones.
"""

from __future__ import annotations

from typing import Any

from trainables.config import PreprocessingSpec
from trainables.models.catalogue.origins import overlaps
from trainables.models.catalogue.towers import BERT, OPEN_CLIP_TEXT, RESNET, SWIN, TIMM_VIT
from trainables.models.encoder_spec import EncoderSpec, Family, Published, Tower

CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"
CXR_BERT = "microsoft/BiomedVLP-CXR-BERT-specialized"
BIOVIL_T = "microsoft/BiomedVLP-BioViL-T"
BIOMED_CLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
HUB = "https://huggingface.co"
BIOMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"

_STANFORD = (
    "vit-b-16__laion2b-s34b-b88k",
    "vit-l-14__laion2b-s32b-b82k",
    "vit-b-16-siglip-512__webli",
    "vit-l-16-siglip-384__webli",
)


def _stanford(loss: str, start: str) -> EncoderSpec:
    return EncoderSpec(
        "clip",
        f"{loss}: {start.replace('__', ' from ')}, trained on radiographs",
        "CC BY-NC 4.0",
        is_pinned=False,
        pretrained_on=("MIMIC-CXR",),
        page=f"{HUB}/StanfordAIMI/{loss}__{start}",
        note="its page lists its other training data",
    )


def _medclip(about: str, family: str, archive: str, **facts: Any) -> EncoderSpec:
    place = f"https://storage.googleapis.com/pytrial/{archive} (linked on its page)"
    return EncoderSpec(
        family,
        f"MedCLIP: {about}",
        "not stated (its package says BSD)",
        parts={"model": Published("pytorch_model.bin", place)},
        vocabulary=CLINICAL_BERT,
        pretrained_on=("MIMIC-CXR", "CheXpert"),
        joint_dim=512,
        page="https://github.com/RyanWangZf/MedCLIP",
        **facts,
    )


def _biovil(
    repository: str, tag: str, family: str, about: str, image: Published, **facts: Any
) -> EncoderSpec:
    place = f"{repository}@{tag}"
    return EncoderSpec(
        family,
        about,
        "MIT code; weights for research",
        parts={"image": image, "text": Published("pytorch_model.bin", place)},
        vocabulary=place,
        pretrained_on=("MIMIC-CXR", "PubMed abstracts", "MIMIC-III notes"),
        joint_dim=128,
        page=f"{HUB}/{repository}",
        **facts,
    )


def _family(loader: str, image: Tower, text: Tower, preprocessing: PreprocessingSpec) -> Family:
    return Family(f"trainables.models.encoders.{loader}", image, text, preprocessing)


CLIP_PIXELS = PreprocessingSpec(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
_MEDCLIP_PIXELS = PreprocessingSpec(pad="before", mean=(0.5862785803043838,), std=(0.27950088968644304,))
_BIOVIL_PIXELS = PreprocessingSpec(
    size=480, window="full", oversize=512 / 480, interpolation="bilinear", mean=(0.0,), std=(1.0,)
)

MEDICAL_FAMILIES: dict[str, Family] = {
    "openai_file": _family("openai_parts:load_openai_part", OPEN_CLIP_TEXT, OPEN_CLIP_TEXT, CLIP_PIXELS),
    "medclip_swin": _family("medclip:load_medclip_swin", SWIN, BERT, _MEDCLIP_PIXELS),
    "medclip_resnet": _family("medclip:load_medclip_resnet", RESNET, BERT, _MEDCLIP_PIXELS),
    "gloria": _family(
        "gloria:load_gloria",
        RESNET,
        BERT,
        PreprocessingSpec(pad="after", oversize=256 / 224, interpolation="area"),
    ),
    "biovil": _family("biovil:load_biovil", RESNET, BERT, _BIOVIL_PIXELS),
    "biovil_t": _family(
        "biovil:load_biovil_t",
        RESNET,
        BERT,
        _BIOVIL_PIXELS.model_copy(update={"size": 448, "oversize": 512 / 448}),
    ),
    "biomedclip": _family("biomedclip:load_biomedclip", TIMM_VIT, BERT, CLIP_PIXELS),
}

MEDICAL: dict[str, EncoderSpec] = {
    "chexzero": EncoderSpec(
        "openai_file", "CheXzero: OpenAI's ViT-B/32 trained on MIMIC-CXR impressions",
        "code MIT; weights not stated, derived from credentialed data",
        parts={
            "model": Published(
                "best_64_0.0001_original_35000_0.864.pt",
                "https://github.com/rajpurkarlab/CheXzero (the Google Drive folder its README links)",
            )
        },
        architecture="ViT-B-32-quickgelu",
        preprocessing=PreprocessingSpec(
            pad="after", oversize=320 / 224, crop="none", interpolation="lanczos",
            mean=(101.48761 / 255,), std=(83.43944 / 255,),
        ),
        pretrained_on=("MIMIC-CXR",),
        num_parameters=151_277_313, pooled_dim=768, joint_dim=512,
        page="https://github.com/rajpurkarlab/CheXzero",
        note="its authors average ten checkpoints, and compare positive with negative prompts without the "
        "logit scale; this project uses one checkpoint, and compares prompts of the classes",
    ),
    "medclip-vit": _medclip(
        "Swin-T + BioClinicalBERT, images and texts matched by their findings", "medclip_swin",
        "medclip-vit-pretrained.zip", num_parameters=136_025_467, pooled_dim=768,
        note="its authors preprocessed radiographs in two ways; this project pads, then resizes, as its "
        "processor does",
    ),
    "medclip-resnet50": _medclip(
        "ResNet-50 + BioClinicalBERT", "medclip_resnet",
        "medclip-pretrained.zip", num_parameters=132_669_505, pooled_dim=2048,
    ),
    "gloria": EncoderSpec(
        "gloria", "GLoRIA: ResNet-50 + BioClinicalBERT; its global embeddings", "Apache-2.0",
        parts={
            "model": Published(
                "chexpert_resnet50.ckpt",
                "https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh",
            )
        },
        vocabulary=CLINICAL_BERT,
        pretrained_on=("CheXpert",),
        num_parameters=132_801_345, pooled_dim=2048, joint_dim=768,
        page="https://github.com/marshuang80/gloria",
        note="its authors add local scores and normalise over the test images; this project does neither",
    ),
    "biovil": _biovil(
        CXR_BERT, "v1.1", "biovil", "BioViL: ResNet-50 + CXR-BERT",
        Published(
            "biovil_image_resnet50_proj_size_128.pt", f"{CXR_BERT}@v1.1", "02ce6ee460f72efd599295f440dbb453"
        ),
        num_parameters=132_793_793, pooled_dim=2048,
        note="its weights contain no logit scale; this project uses 1 / 0.07",
    ),
    "biovil-t": _biovil(
        BIOVIL_T, "v1.0", "biovil_t", "BioViL-T: ResNet-50 + CXR-BERT; without a prior image",
        Published(
            "biovil_t_image_model_proj_size_128.pt", f"{BIOVIL_T}@v1.0", "a83080e2f23aa584a4f2b24c39b1bb64"
        ),
        num_parameters=133_121_729, pooled_dim=512,
        note="the comparison of two images is not used; without a published logit scale, 1 / 0.07 is used",
    ),
    "biomedclip": EncoderSpec(
        "biomedclip", "BiomedCLIP: ViT-B/16 + PubMedBERT, on figures of publications",
        "MIT by a listing; read its card",
        parts={"model": Published("open_clip_pytorch_model.bin", BIOMED_CLIP)},
        vocabulary=BIOMED_BERT,
        pretrained_on=("PMC-15M",),
        num_parameters=195_902_721, pooled_dim=768, joint_dim=512,
        page=f"{HUB}/{BIOMED_CLIP}",
    ),
    "imageomics/bioclip": EncoderSpec(
        "openai_file", "BioCLIP: ViT-B/16 on ten million organisms; the non-medical control",
        "MIT by its repository; read its card",
        parts={"model": Published("open_clip_pytorch_model.bin", "imageomics/bioclip")},
        has_configuration=True,
        architecture="ViT-B-16",
        pretrained_on=("TreeOfLife-10M",),
        num_parameters=149_620_737, pooled_dim=768, joint_dim=512,
        page=f"{HUB}/imageomics/bioclip",
        note="a control: trained on animals, plants and fungi, not on medicine; compare BiomedCLIP with it",
    ),
    "flaviagiammarino/pubmed-clip-vit-base-patch32": EncoderSpec(
        "clip", "PubMedCLIP: OpenAI's ViT-B/32 on figures of publications", "read its card",
        is_pinned=False,
        pretrained_on=("ROCO",),
        num_parameters=151_277_313, pooled_dim=768, joint_dim=512,
        page=f"{HUB}/flaviagiammarino/pubmed-clip-vit-base-patch32",
    ),
    **{
        f"StanfordAIMI/{loss}__{start}": _stanford(loss, start)
        for loss in ("XrayCLIP", "XraySigLIP")
        for start in _STANFORD
    },
}  # fmt: skip


def seen_in_training(encoder: str, data_set: str) -> list[str]:
    """Returns a warning for each part of a data set on which an encoder was trained."""
    spec = MEDICAL.get(encoder)
    seen = overlaps(spec.pretrained_on, data_set) if spec else []
    return [
        f"{encoder} on {data_set}: {overlap}; its scores on this data are no external test"
        for overlap in seen
    ]
