package environment

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Digits before and after the point up to which numbers are written without an
// exponent, as upstream's JSON library does.
const (
	maxWhole = 15
	maxZeros = 4
)

// number spells a number as upstream's JSON library does: integers of 64 bits as
// they are, all else as the shortest float, always with a point or an exponent.
func number(n json.Number) (json.Number, error) {
	if !strings.ContainsAny(string(n), ".eE") {
		if n[0] != '-' {
			if _, err := strconv.ParseUint(string(n), 10, 64); err == nil {
				return n, nil
			}
		} else if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
			return json.Number(strconv.FormatInt(i, 10)), nil
		}
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return "", fmt.Errorf("number overflow: %.100s", n)
	}
	return json.Number(float(f)), nil
}

func float(f float64) string {
	sign := ""
	if math.Signbit(f) {
		sign, f = "-", -f
	}
	if f == 0 {
		return sign + "0.0"
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	digits := strings.Replace(mantissa, ".", "", 1)
	exp, _ := strconv.Atoi(exponent)
	point := exp + 1 // where the point is, counted from the first digit
	switch {
	case len(digits) <= point && point <= maxWhole:
		return sign + digits + strings.Repeat("0", point-len(digits)) + ".0"
	case 0 < point && point <= maxWhole:
		return sign + digits[:point] + "." + digits[point:]
	case -maxZeros < point && point <= 0:
		return sign + "0." + strings.Repeat("0", -point) + digits
	}
	text := digits[:1]
	if len(digits) > 1 {
		text += "." + digits[1:]
	}
	return fmt.Sprintf("%s%se%+03d", sign, text, exp)
}
