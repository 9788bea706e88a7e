//! The requests of a request list, borrowed from it.

const SIGNATURE_BYTES: usize = 64;

pub struct Request<'a> {
    pub key: &'a [u8; 32],
    pub session: u64,
    pub sequence: u64,
    pub operation: &'a [u8],
    pub signature: &'a [u8; 64],
    /// Everything before the signature.
    pub unsigned: &'a [u8],
}

/// Parse `u32 length | request` repeated; None when the list is malformed anywhere.
pub fn parse(mut data: &[u8]) -> Option<Vec<Request<'_>>> {
    let mut requests = Vec::with_capacity(data.len() / 128);
    while !data.is_empty() {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (request, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        requests.push(parse_one(request)?);
        data = rest;
    }
    Some(requests)
}

fn parse_one(bytes: &[u8]) -> Option<Request<'_>> {
    let (unsigned, signature) = bytes.split_last_chunk::<SIGNATURE_BYTES>()?;
    let (key, rest) = unsigned.split_first_chunk::<32>()?;
    let (session, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (length, operation) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*length) as usize != operation.len() || *sequence == [0; 8] {
        return None;
    }
    Some(Request {
        key,
        session: u64::from_le_bytes(*session),
        sequence: u64::from_le_bytes(*sequence),
        operation,
        signature,
        unsigned,
    })
}
