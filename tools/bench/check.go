package main

import "context"

// checkRows read a whole store and compare it with what its database says.
func checkRows(o options) []row {
	trees := need{kind: needTrees, n: o.scaled(20_000, 20)}
	objects := need{kind: needObjects}
	verify := func(n need, contents bool) func(context.Context, *world, side) (sample, error) {
		return func(ctx context.Context, w *world, s side) (sample, error) {
			root, err := w.objects(ctx, n)
			if err != nil {
				return sample{}, err
			}
			stockArgs := []string{"nix-store", "--store", root, "--verify"}
			ourArgs := []string{"--store", root, "check"}
			if contents {
				stockArgs, ourArgs = append(stockArgs, "--check-contents"), append(ourArgs, "--contents")
			}
			return command{args: s.choose(stockArgs, ourArgs)}.run(ctx, w)
		}
	}
	return []row{
		{name: "check/rows", what: "check of a store of small objects", unit: seconds, needs: []need{trees}, run: verify(trees, false)},
		{name: "check/contents-small", what: "the same with contents", unit: seconds, needs: []need{trees}, run: verify(trees, true)},
		{name: "check/contents", what: "check of real objects with contents", unit: seconds, needs: []need{objects}, run: verify(objects, true)},
	}
}
