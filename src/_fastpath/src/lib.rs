//! The native data plane of smartbft.
//!
//! Python sees none of this directly: the Cython modules beside this crate call it through the function tables of
//! `include/fastpath.h`. A call carries a whole batch; the interpreter's lock is released around it and no thread of
//! this crate ever takes it. `unsafe` lives below `ffi` and nowhere else.

#![deny(unsafe_code)]

pub mod event;
pub mod ffi;
pub mod workers;

// --- hashing -------------------------------------------------------------------------------------------------------
pub mod hashing;
pub mod merkle;

// --- verify --------------------------------------------------------------------------------------------------------
pub mod verify;

// --- log -----------------------------------------------------------------------------------------------------------

pub mod log;

// --- pool and frames -----------------------------------------------------------------------------------------------

pub mod frames;
pub mod matcher;
pub mod requests;
pub mod wire;

// --- coin ----------------------------------------------------------------------------------------------------------
pub mod coin;
