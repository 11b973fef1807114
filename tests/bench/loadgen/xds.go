package main

import (
	"encoding/binary"
	"slices"
)

// What is known of xDS here: a response has its nonce in field 5, a request the one that it acknowledges in field 6 where
// xDS is incremental and in field 5 where it is not; there the version, in field 1 of both, is said again as well. All are
// strings, and all fields of a response have a length.
const (
	versionField     = 1
	nonceField       = 5
	acknowledgeField = 6
	lengthDelimited  = 2
)

// nonceOf appends the nonce of a response to what is given.
func nonceOf(response, to []byte) []byte {
	return append(to, textOf(response, nonceField)...)
}

// textOf is a field of a response: the first of that number.
func textOf(response []byte, field uint64) []byte {
	for len(response) > 0 {
		tag, n := binary.Uvarint(response)
		length, m := binary.Uvarint(response[max(n, 0):])
		if n <= 0 || m <= 0 || tag&7 != lengthDelimited || length > uint64(len(response)-n-m) {
			return nil
		}
		if tag>>3 == field {
			return response[n+m:][:length]
		}
		response = response[n+m+int(length):]
	}
	return nil
}

// acknowledge is the request that acknowledges a response.
func acknowledge(head, nonce []byte) []byte {
	return appendText(slices.Clone(head), acknowledgeField, nonce)
}

// acknowledgeState is the same for the state of the world.
func acknowledgeState(head, version, nonce []byte) []byte {
	return appendText(appendText(slices.Clone(head), versionField, version), nonceField, nonce)
}

func appendText(body []byte, field byte, text []byte) []byte {
	body = append(body, field<<3|lengthDelimited)
	return append(binary.AppendUvarint(body, uint64(len(text))), text...)
}
