/** Hands the browser a file to keep; nothing is sent anywhere. */
export function download(name: string, content: Blob): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // Freed once the browser has taken it.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
