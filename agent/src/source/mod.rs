//! Where declarations come from. Each source reads and admits objects on its own thread and sends what it found to the
//! reconcile loop, which alone decides what it means (`stower_controllers::accept`).

pub(crate) mod dir;
