package main

import (
	"encoding/binary"
	"slices"
)

// What is known of incremental xDS here: a response has its nonce in field 5, a request the one that it acknowledges in
// field 6. Both are strings, and all fields of a response have a length.
const (
	nonceField       = 5
	acknowledgeField = 6
	lengthDelimited  = 2
)

// nonceOf appends the nonce of a response to what is given.
func nonceOf(response, to []byte) []byte {
	for len(response) > 0 {
		tag, n := binary.Uvarint(response)
		length, m := binary.Uvarint(response[max(n, 0):])
		if n <= 0 || m <= 0 || tag&7 != lengthDelimited || length > uint64(len(response)-n-m) {
			return to
		}
		value := response[n+m:][:length]
		if tag>>3 == nonceField {
			return append(to, value...)
		}
		response = response[n+m+int(length):]
	}
	return to
}

// acknowledge is the request that acknowledges a response.
func acknowledge(head, nonce []byte) []byte {
	body := append(slices.Clone(head), acknowledgeField<<3|lengthDelimited)
	return append(binary.AppendUvarint(body, uint64(len(nonce))), nonce...)
}
