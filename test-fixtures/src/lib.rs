//! What tests need: bundles, images, a scripted CRIU, test nodes. Only ever a dev-dependency.

pub mod fake_criu;
