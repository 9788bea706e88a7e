//! An array of records that can be captured: a copy of it costs one pointer for each chunk, and a chunk is copied only
//! when one of its records is replaced while a capture still holds it.

use std::sync::Arc;

/// Records in a chunk: few, so that replacing one after a capture copies little; enough to make capturing cheap.
const CHUNK: usize = 64;

#[derive(Clone)]
pub struct Chunks<T> {
    chunks: Vec<Arc<[T; CHUNK]>>,
    len: usize,
}

impl<T: Copy + Default> Chunks<T> {
    pub fn with_capacity(expected: usize) -> Self {
        Chunks { chunks: Vec::with_capacity(expected.div_ceil(CHUNK)), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, at: usize) -> &T {
        &self.chunks[at / CHUNK][at % CHUNK]
    }

    pub fn set(&mut self, at: usize, record: T) {
        Arc::make_mut(&mut self.chunks[at / CHUNK])[at % CHUNK] = record;
    }

    pub fn push(&mut self, record: T) {
        if self.len == self.chunks.len() * CHUNK {
            self.chunks.push(Arc::new([T::default(); CHUNK]));
        }
        self.len += 1;
        self.set(self.len - 1, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_keeps_what_is_replaced_and_does_not_see_what_is_added() {
        let mut chunks = Chunks::with_capacity(0);
        (0..1_000u32).for_each(|number| chunks.push(number));
        let captured = chunks.clone();
        for at in (0..1_000).step_by(7) {
            chunks.set(at, 0);
        }
        (0..1_000).for_each(|number| chunks.push(number));
        assert_eq!((captured.len(), chunks.len()), (1_000, 2_000));
        assert!((0..1_000).all(|at| *captured.get(at) == at as u32));
        assert!((0..1_000).all(|at| *chunks.get(at) == if at % 7 == 0 { 0 } else { at as u32 }));
    }

    #[test]
    fn only_chunks_with_a_replaced_record_are_copied() {
        let mut chunks = Chunks::with_capacity(0);
        (0..10 * CHUNK).for_each(|number| chunks.push(number));
        let captured = chunks.clone();
        for at in [CHUNK, CHUNK + 1, 5 * CHUNK] {
            chunks.set(at, 0);
        }
        let copied: Vec<usize> =
            (0..10).filter(|chunk| !Arc::ptr_eq(&chunks.chunks[*chunk], &captured.chunks[*chunk])).collect();
        assert_eq!(copied, [1, 5]);
        drop(captured);
        let kept = Arc::as_ptr(&chunks.chunks[0]);
        chunks.set(0, 1);
        assert_eq!(Arc::as_ptr(&chunks.chunks[0]), kept, "nobody holds it any more");
    }
}
