# Familiar names for what ksos-compose does; `make help` lists them. The composer is built when it is missing or older
# than its sources. Variables: MANIFEST, ARM64, RPI, OUT, FLAGS (for ksos-compose), EDGE_ID (make dev-vm; the key comes
# from KSOS_EDGE_KEY), IMAGE and DISK (make flash), RUNS (make bench), KSOS_COMPOSE (a composer that is there).
MANIFEST ?= manifests/x86_64-generic.toml
ARM64 ?= manifests/arm64-generic.toml
RPI ?= manifests/arm64-rpi.toml
OUT ?= out
CARGO ?= cargo
DOCKER ?= docker
HOST_ARCH := $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)

ifndef KSOS_COMPOSE
KSOS_COMPOSE := $(or $(CARGO_TARGET_DIR),target)/release/ksos-compose
$(KSOS_COMPOSE): $(shell find ksos-compose ksos-formats Cargo.toml Cargo.lock -name '*.rs' -o -name 'Cargo.*')
	$(CARGO) build --release --locked -p ksos-compose
	@touch $@
endif
build = $(KSOS_COMPOSE) build $(1) --out $(OUT) $(FLAGS)

.DEFAULT_GOAL := help
.PHONY: help composer check fetch kernel kernel-arm64 kernel-rpi rootfs rootfs-arm64 initramfs iso disk-image \
  disk-image-arm64 rpi-image oci-image build-cross docker-build quick dev-vm flash test-boot test-boot-arm64-disk \
  test-all bench completions man

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 24

composer: $(KSOS_COMPOSE) ## The composer itself

check: $(KSOS_COMPOSE) ## Checks the manifests without a download
	$(KSOS_COMPOSE) check $(MANIFEST) $(ARM64)

fetch: $(KSOS_COMPOSE) ## Downloads every component, for a later build with FLAGS=--offline
	$(KSOS_COMPOSE) fetch $(MANIFEST) $(ARM64) $(FLAGS)

kernel: $(KSOS_COMPOSE) ## The kernel for x86_64: OUT/*.vmlinuz
	$(call build,$(MANIFEST) --only kernel)

kernel-arm64: $(KSOS_COMPOSE) ## The kernel for arm64
	$(call build,$(ARM64) --only kernel)

kernel-rpi: $(KSOS_COMPOSE) ## The kernel for the Raspberry Pi
	$(call build,$(RPI) --only kernel)

rootfs: $(KSOS_COMPOSE) ## The root file system for x86_64: OUT/*.root.squashfs
	$(call build,$(MANIFEST) --only rootfs)

rootfs-arm64: $(KSOS_COMPOSE) ## The root file system for arm64
	$(call build,$(ARM64) --only rootfs)

initramfs: $(KSOS_COMPOSE) ## The initramfs for x86_64: OUT/*.initrd
	$(call build,$(MANIFEST) --only initramfs)

iso: $(KSOS_COMPOSE) ## A hybrid ISO for x86_64: live, and an installer
	$(call build,$(MANIFEST) --format iso)

disk-image: $(KSOS_COMPOSE) ## A disk image for x86_64: OUT/*.img
	$(call build,$(MANIFEST) --format disk)

disk-image-arm64: $(KSOS_COMPOSE) ## A disk image for arm64
	$(call build,$(ARM64) --format disk)

rpi-image: $(KSOS_COMPOSE) ## A disk image for the Raspberry Pi
	$(call build,$(RPI) --format disk)

oci-image: $(KSOS_COMPOSE) ## A container image of the root file system, for both architectures
	$(call build,$(MANIFEST) $(ARM64) --format oci-image)

build-cross: $(KSOS_COMPOSE) ## Disk images for both architectures, side by side
	$(call build,$(MANIFEST) $(ARM64) --format disk)

docker-build: ## A disk image, built in a container by an ordinary user
	$(DOCKER) build --file examples/ci/Dockerfile --tag ksos-compose .
	mkdir -p $(OUT)
	$(DOCKER) run --rm --user "$$(id -u):$$(id -g)" --volume "$(CURDIR):/project" --volume ksos-cache:/cache ksos-compose \
	  build $(MANIFEST) --out $(OUT) $(FLAGS)

quick: $(KSOS_COMPOSE) ## Checks the manifest and rebuilds only what changed
	$(KSOS_COMPOSE) check $(MANIFEST)
	$(call build,$(MANIFEST) --format disk)

dev-vm: $(KSOS_COMPOSE) ## A development machine in QEMU, with a kubeconfig for this host
	mkdir -p $(OUT)
	$(KSOS_COMPOSE) run examples/dev-vm.toml --arch $(HOST_ARCH) --memory 2G --kubeconfig $(OUT)/kubeconfig \
	  --forward 9100:9100 $(if $(EDGE_ID),--edge-id $(EDGE_ID)) $(FLAGS)

flash: $(KSOS_COMPOSE) ## Writes IMAGE to DISK, e.g. a USB stick; lists the disks without DISK
	$(KSOS_COMPOSE) flash $(if $(DISK),$(or $(IMAGE),$(error IMAGE names the image)) $(DISK),--list)

test-boot: $(KSOS_COMPOSE) ## Boots the x86_64 image in QEMU until it is ready
	$(KSOS_COMPOSE) run $(MANIFEST) --memory 2G --until ready --timeout 900 $(FLAGS)

test-boot-arm64-disk: $(KSOS_COMPOSE) ## Boots the arm64 disk image in QEMU until it is ready
	$(KSOS_COMPOSE) run $(ARM64) --memory 2G --until ready --timeout 1800 $(FLAGS)

test-all: ## Every check and every test
	tests/run

bench: ## Prints the figures that README.md quotes
	tests/bench $(RUNS)

completions: $(KSOS_COMPOSE) ## Completions for bash, zsh and fish: OUT/completions
	mkdir -p $(OUT)/completions
	$(KSOS_COMPOSE) completions bash >$(OUT)/completions/ksos-compose
	$(KSOS_COMPOSE) completions zsh >$(OUT)/completions/_ksos-compose
	$(KSOS_COMPOSE) completions fish >$(OUT)/completions/ksos-compose.fish

man: $(KSOS_COMPOSE) ## Manual pages: OUT/man
	$(KSOS_COMPOSE) man --out $(OUT)/man
