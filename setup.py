"""Packaging of tfgpt: what every user needs is a dependency, what one job needs is an extra named for that job."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

EXTRAS = {
    # HTML to text: newspaper4k keeps the import name `newspaper`, newspaper3k installs in its place if preferred.
    "extract": ["newspaper4k>=0.9.3", "trafilatura>=1.12", "lxml_html_clean"],
    "newspaper3k": ["newspaper3k==0.2.8", "cssselect", "lxml_html_clean"],
    "gcs": ["google-cloud-storage>=2.14"],
    "parquet": ["pyarrow>=15"],
    "beam": ["apache-beam>=2.60; python_version < '3.14'"],
    "tpu": ["tensorflow-tpu>=2.19; sys_platform == 'linux' and python_version < '3.13'"],
    "serve": ["starlette>=0.40", "uvicorn>=0.30"],
    "plot": ["matplotlib>=3.8"],
    "wandb": ["wandb>=0.17"],
    # The peers that `tfgpt bench` runs beside us; fused AdamW on the CPU came with torch 2.4.
    "bench": ["torch>=2.4", "transformers>=4.45", "ctranslate2>=4.5"],
    "bench-keras": ["keras-hub>=0.32; python_version >= '3.11'"],
    "export": ["tensorflow-text>=2.20; sys_platform == 'linux'"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        # The peer of the parity tests. On Linux, PyPI's build brings gigabytes of CUDA along, and triton, which must not be
        # imported after TensorFlow (a segmentation fault). The CPU's build is enough:
        # PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ./script/test
        "torch==2.13.0",
        "transformers>=4.45",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "wandb>=0.17",
        "apache-beam>=2.60",
        "gcp-storage-emulator>=2024.8",
        "google-cloud-storage>=2.14",
        "pyarrow>=15",
        "newspaper4k>=0.9.3",
        "trafilatura>=1.12",
        "lxml_html_clean",
        "starlette>=0.40",
        "uvicorn>=0.30",
        "httpx>=0.27",
        "openai>=1.50",
        "schemathesis>=4.32; python_version >= '3.11'",
    ],
    "lint": ["ruff>=0.6", "mypy>=1.11", "types-requests", "types-tqdm", "pre-commit>=3.8"],
}

setup(
    name="tfgpt",
    version="0.1.0",
    description="Train a GPT of your own with TensorFlow 2 and Keras 3",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    # The presets lie at the top of the repository, and inside the package once it is installed.
    packages=[*find_packages(include=["tfgpt", "tfgpt.*"]), "tfgpt.model_configs"],
    package_dir={"tfgpt.model_configs": "model_configs"},
    package_data={"tfgpt": ["py.typed", "serving/*.sample", "serving/*.html"], "tfgpt.model_configs": ["*.json"]},
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12",
        "numpy>=1.26",
        "numba>=0.61",
        "pydantic>=2.10",
        "tiktoken>=0.13",
        "tokenizers>=0.20",
        "ftfy>=6.2",
        "regex",
        "google-crc32c>=1.6",
        "zstandard>=0.22",
        "tqdm>=4.66",
        "requests>=2.31",
        "urllib3>=2.2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["tfgpt = tfgpt.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
