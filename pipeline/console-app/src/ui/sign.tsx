import { useState } from "preact/hooks";
import { ApiError, send } from "../api/client";
import type { Envelope, FileGiven } from "../api/types";
import { download } from "../model/download";
import { Failure } from "./panel";

/** What is to be signed: texts, a proposal or an earlier version. */
export type Signed = { files: FileGiven[] } | { "proposal-id": string } | { version: number };

/** A signature that OpenSSH writes is a few hundred bytes. */
const MAX_SIGNATURE_BYTES = 64_000;

/** For a gateway that takes only signed policies: the manifest goes out, its signature comes in, and the
 *  key stays where it is. */
export function Sign({ of, set }: { of: Signed; set: (envelope: Envelope | undefined) => void }) {
  const [made, setMade] = useState<{ manifest: string; command: string }>();
  const [taken, setTaken] = useState("");
  const [error, setError] = useState<ApiError>();
  const make = async () => {
    setError(undefined);
    setTaken("");
    set(undefined);
    try {
      const answer = await send<{ manifest: string; command: string }>("POST", "/policy/manifest", of);
      setMade(answer);
      download("policy.manifest", new Blob([answer.manifest], { type: "application/octet-stream" }));
    } catch (cause) {
      setError(cause instanceof ApiError ? cause : new ApiError(0, "The manifest could not be made", String(cause)));
    }
  };
  const take = async (file: File | undefined) => {
    setError(undefined);
    setTaken("");
    set(undefined);
    if (!file || !made) return;
    const signature = file.size > MAX_SIGNATURE_BYTES ? "" : await file.text();
    if (!signature.startsWith("-----BEGIN SSH SIGNATURE-----")) {
      setError(new ApiError(0, "That is no signature", `${file.name} does not begin as what ssh-keygen writes.`, "Take the file policy.manifest.sig."));
      return;
    }
    setTaken(file.name);
    set({ manifest: made.manifest, signature });
  };
  return (
    <fieldset class="sign stack">
      <legend>This gateway takes only signed policies</legend>
      <ol class="stack">
        <li>
          <button type="button" class="button small" onClick={make}>
            1. Save the manifest
          </button>{" "}
          {made && "policy.manifest is saved."}
        </li>
        {made && (
          <>
            <li>
              2. Sign it where the key is: <code class="wrap">{made.command}</code>
            </li>
            <li>
              <label class="field">
                <span>3. What that wrote, policy.manifest.sig</span>
                <input type="file" accept=".sig" onChange={(event) => void take(event.currentTarget.files?.[0])} />
              </label>
            </li>
          </>
        )}
      </ol>
      {taken && <p role="status">{taken} is taken: go on below.</p>}
      {error && <Failure error={error} />}
    </fieldset>
  );
}
