//! The system calls that neither nix nor rustix wraps: the one place of this crate where unsafe is allowed.
#![allow(unsafe_code)]
