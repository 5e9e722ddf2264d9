//! What only the driver on device-mapper does. All of it needs a kernel that has it: `cargo xtask vm --test devicemapper`.

mod damage;
mod given;
mod life;
mod space;
mod support;
