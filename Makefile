# make demo: camera to depth and clouds on this machine.  make test: every test.  Both install what they need into
# .venv, once; all they ask of the machine is Python 3.10 or later. Variables: PYTHON, JOBS, ARGS (passed on), e.g.
# make test ARGS="-k camera_info", make demo ARGS="--frames 100".

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: demo test soak lint clean help

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
TORCH ?= 2.13.0
# Address of PyTorch's own index of CPU builds, for machines whose package index has none.
TORCH_CPU_INDEX ?=

# A sourced ROS brings its own rclpy; without one the wheels of the Python registry do. Never both in one process.
ROS := $(if $(ROS_DISTRO),$(ROS_DISTRO),wheels)
comma := ,
EXTRAS := train,pretrained$(if $(ROS_DISTRO),,$(comma)ros)
VERSIONS := setup.cfg setup.py package.xml pyproject.toml
BASE := $(VENV)/.installed-$(ROS)
DEV := $(VENV)/.installed-$(ROS)-dev
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -q
# An editable install leaves out what ros2 run and ros2 launch look for.
# Files are linked, not their folders, into which ros2 launch does not look.
SHARE := $(VENV)/share/dyndepth
# The executables look for the Python beside the folder they lie in, so theirs is a folder, too.
LIB := $(VENV)/lib/dyndepth
LINKS := rm -rf $(SHARE) $(LIB); \
	mkdir -p $(VENV)/share/ament_index/resource_index/packages $(SHARE)/launch $(SHARE)/config $(LIB); \
	ln -sfn "$(CURDIR)/resource/dyndepth" $(VENV)/share/ament_index/resource_index/packages/dyndepth; \
	ln -sfn "$(CURDIR)"/launch/*.launch.py $(SHARE)/launch/; \
	ln -sfn "$(CURDIR)"/config/* $(SHARE)/config/; \
	ln -sfn "$(CURDIR)/package.xml" $(SHARE)/; \
	ln -sfn "$(CURDIR)"/dyndepth_ros/executables/* $(LIB)/
# ament_index finds the package by this; CMake-style lists of a sourced ROS stay in front.
ENVIRONMENT := source $(VENV)/bin/activate; \
	export AMENT_PREFIX_PATH="$${AMENT_PREFIX_PATH:+$$AMENT_PREFIX_PATH:}$$VIRTUAL_ENV"

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(BASE)
	@$(ENVIRONMENT)
	dyndepth demo --out demo_out $(ARGS)

test: $(DEV)
	@$(ENVIRONMENT)
	export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
	pytest -n $(JOBS) --dist loadfile $(ARGS)

# Full counts: long streams, many kills and restarts.
soak: $(DEV)
	@$(ENVIRONMENT)
	export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
	pytest -n $(JOBS) --dist loadfile --soak $(ARGS)

lint: $(DEV)
	@$(VENV)/bin/ruff check .

# Keeps runs/ and every model in it.
clean:
	rm -rf $(VENV) build install log dist demo_out .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.10 or later, or say make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $$($(PYTHON) -V) is too old; dyndepth needs 3.10 or later: make PYTHON=/path/to/python3.x"; exit 1; }
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and pinned, so that nothing else chooses one. Without an NVIDIA GPU the CPU build: from the configured
# index if it has one, then from TORCH_CPU_INDEX; else the registry's default build, which runs anywhere but is large.
$(BASE): $(VENV)/.python $(VERSIONS)
	@if compgen -G "$(VENV)/.installed-*" >/dev/null && ! compgen -G "$(VENV)/.installed-$(ROS)*" >/dev/null; then
		echo "make: $(VENV) was made for another ROS than '$(ROS)'; run make clean first"; exit 1
	fi
	if [ $(ROS) != wheels ] && ! $(VENV)/bin/python -c 'import rclpy, sensor_msgs.msg' 2>/dev/null; then
		echo "make: ROS $(ROS) is sourced, but its rclpy does not load in $$($(VENV)/bin/python -V): use the Python that"
		echo "it was built for (make clean; make PYTHON=/usr/bin/python3), or a shell without ROS to use the wheels"; exit 1
	fi
	echo "torch==$(TORCH)" > $(VENV)/constraints.txt
	if ! $(VENV)/bin/python -c 'import torch; assert torch.__version__.startswith("$(TORCH)")' 2>/dev/null; then
		echo "installing torch $(TORCH)"
		if command -v nvidia-smi >/dev/null; then
			$(PIP) torch==$(TORCH)
		else
			$(PIP) torch==$(TORCH)+cpu 2>/dev/null || \
			{ [ -n "$(TORCH_CPU_INDEX)" ] && $(PIP) --extra-index-url $(TORCH_CPU_INDEX) torch==$(TORCH)+cpu; } || \
			$(PIP) torch==$(TORCH)
		fi
	fi
	echo "installing dyndepth[$(EXTRAS)] into $(VENV), ROS: $(ROS)"
	$(PIP) -c $(VENV)/constraints.txt -e ".[$(EXTRAS)]"
	$(LINKS)
	touch $@

$(DEV): $(BASE)
	@echo "installing what the tests need"
	$(PIP) -c $(VENV)/constraints.txt -e ".[$(EXTRAS),dev]"
	touch $@
