//! The rules: what each operation does to the state, and the result it gives.
//!
//! A transaction is checked completely before anything changes. The checks run in a fixed order and the first that fails
//! gives the code, because the code is part of the agreed result: BAD_SIGNATURE (where signatures are checked here),
//! MALFORMED, the stateless checks of [`Operation::check`], and then for MINT: NOT_AUTHORISED; for SPEND: input by input
//! UNKNOWN_COIN and NOT_OWNER, then UNBALANCED; for both: COIN_EXISTS, and OVERFLOW when no slot is left.

use super::operation::{amounts, coin_ids, recipients, sum, Code, Operation, MINT, SPEND};
use super::state::State;
use super::table::Key;
use super::{coin_id, coin_key};
use crate::wire::{self, RequestView};

/// The request list is malformed: nothing of it was executed.
#[derive(Debug, PartialEq)]
pub struct MalformedList;

/// A signature check: `(public key, signature, signed message)`.
pub type Verify = fn(&[u8; 32], &[u8; 64], &[u8]) -> bool;

/// What the genesis says about the coin.
pub struct Parameters {
    pub chain_id: Key,
    pub minters: Vec<Key>,
    /// Least size of the results of MINT and SPEND, in bytes.
    pub receipt_bytes_mint: usize,
    pub receipt_bytes_spend: usize,
}

/// The replicated coin: parameters, state, and the scratch space that keeps execution free of allocations.
pub struct Machine {
    pub state: State,
    pub parameters: Parameters,
    coin_key: Key,
    signature_context: Key,
    inputs: Vec<u32>,
    outputs: Vec<Key>,
    keys: Vec<Key>,
    message: Vec<u8>,
}

/// All requests of a list, which is refused as a whole. Operations are bounded by what a request can hold; what is too
/// long for the coin is its own MALFORMED.
fn parse(data: &[u8]) -> Result<Vec<RequestView<'_>>, MalformedList> {
    wire::requests(data, u32::MAX as usize).collect::<Result<_, _>>().map_err(|_| MalformedList)
}

/// The client of a request.
fn key<'a>(request: &RequestView<'a>) -> &'a Key {
    array(request.key())
}

fn array<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.try_into().expect("the layout of a request was checked")
}

/// The stateless check of a request list: one byte per request, 1 or 0. An empty operation is a no-op and passes.
pub fn check_batch(data: &[u8]) -> Result<Vec<u8>, MalformedList> {
    let requests = parse(data)?;
    let mut scratch = Vec::new();
    let mut passes = |operation: &[u8]| {
        operation.is_empty() || Operation::parse(operation).and_then(|parsed| parsed.check(&mut scratch)).is_ok()
    };
    Ok(requests.iter().map(|request| u8::from(passes(request.operation()))).collect())
}

impl Machine {
    pub fn new(mut parameters: Parameters) -> Self {
        parameters.minters.sort_unstable();
        Machine {
            state: State::with_capacity(0),
            coin_key: coin_key(&parameters.chain_id),
            signature_context: blake3::derive_key("smartbft v1 request signature", &parameters.chain_id),
            parameters,
            inputs: Vec::new(),
            outputs: Vec::new(),
            keys: Vec::new(),
            message: Vec::new(),
        }
    }

    /// Execute a request list in order; returns `u32 length | result` of each. With `verify` each signature is checked
    /// first, one after the other.
    pub fn execute_batch(&mut self, data: &[u8], verify: Option<Verify>) -> Result<Vec<u8>, MalformedList> {
        let requests = parse(data)?;
        let receipt = self.parameters.receipt_bytes_mint.max(self.parameters.receipt_bytes_spend).max(65);
        let mut results = Vec::with_capacity(requests.len() * (4 + receipt));
        for request in &requests {
            let start = results.len();
            results.extend_from_slice(&[0; 4]);
            if !request.operation().is_empty() {
                self.execute(request, verify, &mut results);
            }
            let length = (results.len() - start - 4) as u32;
            results[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        Ok(results)
    }

    /// Append the result of one request.
    fn execute(&mut self, request: &RequestView, verify: Option<Verify>, results: &mut Vec<u8>) {
        let start = results.len();
        results.push(Code::Ok as u8);
        if let Err(code) = self.apply(request, verify, results) {
            results.truncate(start);
            results.push(code as u8);
        }
        let least = match request.operation()[0] {
            MINT => self.parameters.receipt_bytes_mint,
            SPEND => self.parameters.receipt_bytes_spend,
            _ => 0,
        };
        if results.len() - start < least {
            results.resize(start + least, 0);
        }
    }

    fn apply(&mut self, request: &RequestView, verify: Option<Verify>, results: &mut Vec<u8>) -> Result<(), Code> {
        if let Some(verify) = verify {
            self.check_signature(request, verify)?;
        }
        let operation = Operation::parse(request.operation())?;
        operation.check(&mut self.keys)?;
        match operation {
            Operation::Mint { values } => self.mint(request, values),
            Operation::Spend { inputs, outputs } => self.spend(request, inputs, outputs),
            Operation::Balance { .. } | Operation::Coins { .. } => {
                self.answer(&operation, results);
                return Ok(());
            }
        }?;
        results.push(self.outputs.len() as u8);
        results.extend(self.outputs.iter().flatten());
        Ok(())
    }

    /// The result that a query would have if it were ordered next; None: this is no query. Changes nothing.
    pub fn read(&self, operation: &[u8]) -> Option<Vec<u8>> {
        let query = Operation::parse(operation).ok()?;
        let mut result = vec![Code::Ok as u8];
        self.answer(&query, &mut result).then_some(result)
    }

    /// Append the answer to a query; false: the operation is none.
    fn answer(&self, query: &Operation, results: &mut Vec<u8>) -> bool {
        match query {
            Operation::Balance { address } => {
                let (amount, coins) = self.state.balance(address);
                results.extend_from_slice(&amount.to_le_bytes());
                results.extend_from_slice(&coins.to_le_bytes());
            }
            Operation::Coins { address, most, after } => self.list(address, *most, *after, results),
            Operation::Mint { .. } | Operation::Spend { .. } => return false,
        }
        true
    }

    fn check_signature(&mut self, request: &RequestView, verify: Verify) -> Result<(), Code> {
        self.message.clear();
        self.message.extend_from_slice(&self.signature_context);
        self.message.extend_from_slice(request.signed());
        match verify(key(request), array(request.signature()), &self.message) {
            true => Ok(()),
            false => Err(Code::BadSignature),
        }
    }

    fn mint(&mut self, request: &RequestView, values: &[u8]) -> Result<(), Code> {
        if self.parameters.minters.binary_search(key(request)).is_err() {
            return Err(Code::NotAuthorised);
        }
        self.name_outputs(request, values.len() / 8)?;
        self.state.minted += u128::from(sum(amounts(values))?);
        for (id, value) in self.outputs.iter().zip(amounts(values)) {
            self.state.add(id, key(request), value);
        }
        Ok(())
    }

    fn spend(&mut self, request: &RequestView, inputs: &[u8], outputs: &[u8]) -> Result<(), Code> {
        self.inputs.clear();
        let mut available = 0u128;
        for id in coin_ids(inputs) {
            let slot = self.state.find(id).ok_or(Code::UnknownCoin)?;
            let coin = self.state.coin(slot);
            if self.state.address(coin) != request.key() {
                return Err(Code::NotOwner);
            }
            available += u128::from(coin.value);
            self.inputs.push(slot);
        }
        if available != u128::from(sum(recipients(outputs).map(|(_, amount)| amount))?) {
            return Err(Code::Unbalanced);
        }
        self.name_outputs(request, outputs.len() / 40)?;
        for slot in self.inputs.drain(..) {
            self.state.remove(slot);
        }
        for (id, (address, amount)) in self.outputs.iter().zip(recipients(outputs)) {
            self.state.add(id, address, amount);
        }
        Ok(())
    }

    /// Compute the ids of a transaction's outputs and see that they can be added. The ids are new as long as no request is
    /// executed twice, which the request pool sees to; a caller that replays one gets COIN_EXISTS, not a broken table.
    fn name_outputs(&mut self, request: &RequestView, count: usize) -> Result<(), Code> {
        self.outputs.clear();
        for index in 0..count as u32 {
            let id = coin_id(&self.coin_key, key(request), request.session_number(), request.sequence(), index);
            if self.state.find(&id).is_some() {
                return Err(Code::CoinExists);
            }
            self.outputs.push(id);
        }
        match self.state.has_room_for(count) {
            true => Ok(()),
            false => Err(Code::Overflow),
        }
    }

    fn list(&self, address: &Key, most: u16, after: Option<&Key>, results: &mut Vec<u8>) {
        let coins = self.state.list(address, most as usize, after);
        results.extend_from_slice(&(coins.len() as u16).to_le_bytes());
        for (id, value) in coins {
            results.extend_from_slice(&id);
            results.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{push_item, tests::request};

    const CHAIN: Key = [9; 32];

    fn machine() -> Machine {
        let minters = vec![[1; 32]];
        Machine::new(Parameters { chain_id: CHAIN, minters, receipt_bytes_mint: 0, receipt_bytes_spend: 80 })
    }

    fn mint(value: u64) -> Vec<u8> {
        [&[MINT, 1][..], &value.to_le_bytes(), &[0, 0]].concat()
    }

    fn spend(input: &Key, address: &Key, amount: u64) -> Vec<u8> {
        [&[SPEND, 1][..], input, &[1], address, &amount.to_le_bytes(), &[0, 0]].concat()
    }

    /// Execute one operation of the client whose key is `client` repeated; returns its result.
    fn execute(machine: &mut Machine, client: u8, sequence: u64, operation: &[u8]) -> Vec<u8> {
        let mut list = Vec::new();
        push_item(&mut list, &request(client, 1, sequence, operation, 0));
        machine.execute_batch(&list, None).unwrap().split_off(4)
    }

    #[test]
    fn rejections_change_nothing_and_are_padded_like_receipts() {
        let mut machine = machine();
        execute(&mut machine, 1, 1, &mint(5));
        let coin = coin_id(&coin_key(&CHAIN), &[1; 32], 1, 1, 0);
        let before = machine.digest();
        for (client, operation, code) in [
            (2, spend(&coin, &[2; 32], 5), Code::NotOwner),
            (1, spend(&coin, &[2; 32], 6), Code::Unbalanced),
            (1, spend(&[7; 32], &[2; 32], 5), Code::UnknownCoin),
            (2, mint(5), Code::NotAuthorised),
        ] {
            let result = execute(&mut machine, client, 2, &operation);
            assert_eq!(result[0], code as u8);
            assert_eq!(result.len(), if operation[0] == SPEND { 80 } else { 1 });
            assert_eq!(machine.digest(), before);
        }
    }

    /// A million transactions that each spend one coin and make one take no more slots than one.
    #[test]
    fn a_million_spends_leave_the_state_as_large_as_it_was() {
        let mut machine = machine();
        let coin_key = coin_key(&CHAIN);
        execute(&mut machine, 1, 1, &mint(5));
        let mut coin = coin_id(&coin_key, &[1; 32], 1, 1, 0);
        let size = machine.state.allocated();
        let mut list = Vec::new();
        for sequence in 2..1_000_002 {
            push_item(&mut list, &request(1, 1, sequence, &spend(&coin, &[1; 32], 5), 0));
            coin = coin_id(&coin_key, &[1; 32], 1, sequence, 0);
            if sequence % 1_000 == 0 {
                machine.execute_batch(&list, None).unwrap();
                list.clear();
            }
        }
        machine.execute_batch(&list, None).unwrap();
        assert!(machine.state.find(&coin).is_some());
        assert_eq!((machine.state.coins(), machine.state.supply()), (1, 5));
        assert_eq!(machine.state.allocated(), size);
    }
}
