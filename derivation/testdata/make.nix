let
  mk = a: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo \"$out\"\t\\ done\r\n" ]; } // a);
  src = builtins.toFile "script.sh" "echo hi\n";
  fixed = mk { name = "fetched.tar"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; url = "http://example.org/fetched.tar"; };
  fixedTree = mk { name = "tree"; outputHashMode = "recursive"; outputHash = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="; };
  lib = mk { name = "lib-1.2"; outputs = [ "out" "dev" "doc" ]; inherit src; from = fixed; tree = fixedTree; weird = "quote \" backslash \\ tab \t newline \n cr \r unicode é nul-free $dollar"; empty = ""; };
  app = mk { name = "app"; libs = [ lib lib.dev ]; doc = lib.doc; self = placeholder "out"; };
  structured = mk { name = "structured"; __structuredAttrs = true; outputs = [ "out" "bin" ]; list = [ 1 2 "three" ]; set = { a = true; b = null; f = 1.5; }; dep = lib; text = "line\nq\"\\\té"; };
  floating = mk { name = "floating"; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputs = [ "out" "dev" ]; dep = lib; };
  deferred = mk { name = "deferred"; dep = floating.dev; app = app; };
  impure = mk { name = "impure"; __impure = true; };
  maker = mk { name = "made.drv"; __contentAddressed = true; outputHashMode = "text"; outputHashAlgo = "sha256"; };
  dynamic = mk { name = "dynamic"; made = builtins.outputOf (builtins.outputOf maker.outPath "out") "dev"; made1 = builtins.outputOf maker.outPath "out"; alsoMaker = maker; dep = lib; };
in { inherit fixed fixedTree lib app structured floating deferred impure maker dynamic; }
