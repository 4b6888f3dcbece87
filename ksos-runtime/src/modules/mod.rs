//! Kernel modules: what `modprobe` does, as a library and as an applet.
//!
//! `index` reads kmod's text files below `/lib/modules/RELEASE` (modules.dep(5), depmod(8)), `glob` matches device
//! aliases, `process` is a process of its own for the work, `load` loads with dependencies and finds the modules that the present hardware asks for. Module files may
//! be compressed if the kernel can decompress them itself (CONFIG_MODULE_DECOMPRESS).
//!
//! Not done: `/etc/modprobe.d`, `install`/`remove` commands, binary indexes.

mod applet;
pub(crate) mod glob;
mod index;
mod load;
pub mod process;

pub use applet::modprobe;
pub use index::Index;
pub use load::{Error, Loader, directory};
