//! What the tests in Python cannot reach: the helpers round the system calls.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Mutex;

use super::device::{allocate_all, write_all, Device, LogFile};
use super::format::{all_zero, record_size, Identity, RecordHeader, SegmentHeader, NO_RECORD};
use super::parser::{Parser, Verdict};

/// Keeps what is written in memory, a few bytes a call.
struct Trickle {
    at_most: usize,
    written: Mutex<Vec<u8>>,
}

impl Trickle {
    fn new(at_most: usize) -> Self {
        Trickle { at_most, written: Mutex::default() }
    }
}

impl Device for Trickle {
    fn open(&self, _path: &Path, _create: bool) -> io::Result<LogFile> {
        Ok(LogFile { file: std::fs::File::open("/dev/null")?, number: 0 })
    }

    fn read(&self, _file: &LogFile, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write(&self, _file: &LogFile, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut written = self.written.lock().unwrap();
        assert_eq!(offset, written.len() as u64);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.at_most).collect();
        written.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn allocate(&self, file: &LogFile, offset: u64, length: u64) -> io::Result<usize> {
        let zeros = vec![0; length as usize];
        self.write(file, &[IoSlice::new(&zeros)], offset)
    }

    fn sync(&self, _file: &LogFile) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self, _file: &LogFile) {}
}

#[test]
fn short_writes_are_continued() {
    let buffers: Vec<Vec<u8>> = (0..3000).map(|index| vec![index as u8; index % 5]).collect();
    let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
    for at_most in [1, 3, 1000, usize::MAX] {
        let device = Trickle::new(at_most);
        let file = device.open(Path::new(""), false).unwrap();
        write_all(&device, &file, &slices, 0).unwrap();
        assert_eq!(*device.written.lock().unwrap(), buffers.concat());
    }
}

#[test]
fn a_device_that_takes_nothing_is_an_error() {
    let device = Trickle::new(0);
    let file = device.open(Path::new(""), false).unwrap();
    assert_eq!(write_all(&device, &file, &[b"x"], 0).unwrap_err().kind(), io::ErrorKind::WriteZero);
    assert_eq!(allocate_all(&device, &file, 0, 1).unwrap_err().kind(), io::ErrorKind::WriteZero);
}

#[test]
fn zeros_are_recognised_whatever_the_length() {
    for length in [0, 1, 4095, 4096, 4097, 10_000] {
        let mut bytes = vec![0; length];
        assert!(all_zero(&bytes));
        if let Some(last) = bytes.last_mut() {
            *last = 1;
            assert!(!all_zero(&bytes));
        }
    }
}

/// A record of another segment is none, even when it is copied byte by byte to the right place.
#[test]
fn a_record_counts_in_its_own_segment_only() {
    let identity = Identity { chain_id: [7; 32], replica: 1 };
    let header = |nonce| SegmentHeader { identity, segment: 0, size: 0, nonce, previous: NO_RECORD };
    let record = RecordHeader {
        kind: 1,
        length: 0,
        synced: 512,
        instance: 1,
        previous: NO_RECORD,
        body: super::format::checksum(b""),
    };
    let bytes = record.encode(&header([1; 16]).record_key());
    assert_eq!(bytes.len(), record_size(0));
    for (nonce, intact) in [([1; 16], true), ([2; 16], false)] {
        let segment = [&header(nonce).encode()[..], &bytes[..]].concat();
        let mut parser = Parser::new(identity);
        assert_eq!(parser.parse(&segment, true).is_ok(), intact);
        assert_eq!(parser.verdict, if intact { Verdict::Complete } else { Verdict::Corrupt });
    }
}
